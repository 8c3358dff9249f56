//! Who is told, in the database that knows them.

use std::collections::BTreeMap;

use super::fields::{Audience, Followers, Mentions};
use super::mentions;
use afterload_core::error::{Error, Result};
use afterload_step_api::Context;
use afterload_target_db::{Command, Connection, Connections, People, Person, Span, default_connection};

/// The most names of a text that are looked up; a text with more is no message to them.
const NAMES: usize = 100;
/// The most people that one name may stand for.
const NAMESAKES: usize = 1_000;

/// Everybody who is told.
pub struct Members {
    /// Those whom the query finds, where they are found.
    pub followers: Option<(Connection, People)>,
    /// Those who are named.
    pub named: Option<Named>,
}

/// Those who are named.
pub struct Named {
    /// Where they are found.
    pub connection: Connection,
    /// The names, each once.
    pub names: Vec<String>,
    people: People,
}

impl Members {
    /// Reads the text and the queries.
    pub async fn of(audience: Audience, connections: &Connections) -> Result<Self> {
        let Audience { followers, mentions } = audience;
        let known = followers.as_ref().map(|followers| (followers.connection.clone(), followers.key.clone()));
        let named = match mentions {
            Some(mentions) => Some(Named::of(mentions, known, connections).await?),
            None => None,
        };
        let followers = match followers {
            Some(Followers { connection, sql, key, bind }) => {
                let connection = connections.get(&connection).await?;
                let people = People::new(&Command::parse(&sql, connection.dialect())?, &key, bind);
                Some((connection, people))
            }
            None => None,
        };
        Ok(Self { followers, named })
    }
}

impl Named {
    async fn of(mentions: Mentions, followers: Option<(String, String)>, connections: &Connections) -> Result<Self> {
        let Mentions { text, sql, connection, key, bind } = mentions;
        let (known, known_key) = followers.unzip();
        let connection = connection.or(known).unwrap_or_else(default_connection);
        let connection = connections.get(&connection).await?;
        let key = key.or(known_key).unwrap_or_else(|| "id".into());
        let people = People::new(&Command::parse(&sql, connection.dialect())?, &key, bind);
        let mut names = mentions::names(&text.value()?);
        names.truncate(NAMES);
        Ok(Self { connection, names, people })
    }

    /// The people of this name.
    pub fn called(&self, name: &str) -> People {
        self.people.clone().with("name", name.into())
    }

    /// Everybody who has one of these names, by key.
    pub async fn all(&self, names: &[String], ctx: &Context) -> Result<BTreeMap<String, Person>> {
        let mut all = BTreeMap::new();
        for name in names {
            let page = self.called(name).page(&self.connection, &Span::default(), NAMESAKES + 1, &ctx.stop).await?;
            if page.rows.len() > NAMESAKES {
                let message = format!("more than {NAMESAKES} people are called `{name}`");
                return Err(Error::permanent("audience_too_large", message)
                    .hint("let the query of `mentions` find who is meant; larger audiences are `followers`"));
            }
            all.extend(page.people().map(|person| (key_text(&person), person)));
        }
        Ok(all)
    }
}

/// The key as text, by which deliveries are known.
pub fn key_text(person: &Person) -> String {
    person.key.as_str().map_or_else(|| person.key.to_string(), str::to_owned)
}
