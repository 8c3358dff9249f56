//! Finds the recipients in the database.

use std::collections::BTreeMap;

use super::fields::{Audience, DEFAULT_KEY, Followers, Mentions};
use super::mentions;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::params::TextPattern;
use afterload_step_api::StepContext;
use afterload_target_db::{
    Connection, Connections, KeyRange, ParsedStatement, Recipient, RecipientQuery, default_connection,
};

/// The maximum number of names of a text that are looked up.
const MAX_MENTIONED_NAMES: usize = 100;
/// The maximum number of people that share one name.
const MAX_NAMESAKES: usize = 1_000;

/// All recipients.
pub struct Recipients {
    /// The query for the followers, and its connection.
    pub followers: Option<(Connection, RecipientQuery)>,
    /// The mentioned people.
    pub mentioned: Option<Mentioned>,
}

/// The mentioned people.
pub struct Mentioned {
    /// The connection of their query.
    pub connection: Connection,
    /// The distinct names.
    pub names: Vec<String>,
    people: RecipientQuery,
}

impl Recipients {
    /// Finds the mentions in the text, and parses the queries.
    pub async fn from_audience(audience: Audience, connections: &Connections) -> Result<Self> {
        let Audience { followers, mentions } = audience;
        let known = followers.as_ref().map(|followers| (followers.connection.clone(), followers.key.clone()));
        let named = match mentions {
            Some(mentions) => Some(Mentioned::from_mentions(mentions, known, connections).await?),
            None => None,
        };
        let followers = match followers {
            Some(Followers { connection, sql, key, bind }) => {
                let connection = connections.get(&connection).await?;
                let people = RecipientQuery::new(&ParsedStatement::parse(&sql, connection.dialect())?, &key, bind);
                Some((connection, people))
            }
            None => None,
        };
        Ok(Self { followers, mentioned: named })
    }
}

impl Mentioned {
    async fn from_mentions(
        mentions: Mentions,
        followers: Option<(String, String)>,
        connections: &Connections,
    ) -> Result<Self> {
        let Mentions { text, pattern, sql, connection, key, bind } = mentions;
        let (known, known_key) = followers.unzip();
        let connection = connection.or(known).unwrap_or_else(default_connection);
        let connection = connections.get(&connection).await?;
        let key = key.or(known_key).unwrap_or_else(|| DEFAULT_KEY.into());
        let people = RecipientQuery::new(&ParsedStatement::parse(&sql, connection.dialect())?, &key, bind);
        let pattern = pattern.as_deref().map(TextPattern::compile).transpose();
        let pattern =
            pattern.map_err(|why| Error::new(codes::WITH_INVALID, format!("`pattern` is not valid: {why}")))?;
        let mut names = mentions::find_mentions(&text.into_value()?, pattern.as_ref());
        names.truncate(MAX_MENTIONED_NAMES);
        Ok(Self { connection, names, people })
    }

    /// Returns the query for the people with this name.
    pub fn by_name(&self, name: &str) -> RecipientQuery {
        self.people.clone().with_value("name", name.into())
    }

    /// Returns all people with one of these names, by key.
    pub async fn find_all(&self, names: &[String], ctx: &StepContext) -> Result<BTreeMap<String, Recipient>> {
        let mut all = BTreeMap::new();
        for name in names {
            let page = self
                .by_name(name)
                .fetch_page(&self.connection, &KeyRange::default(), MAX_NAMESAKES + 1, &ctx.stop)
                .await?;
            if page.rows.len() > MAX_NAMESAKES {
                let message = format!("more than {MAX_NAMESAKES} people are called `{name}`");
                return Err(Error::new(codes::AUDIENCE_TOO_LARGE, message));
            }
            all.extend(page.iter_recipients().map(|person| (recipient_key_text(&person), person)));
        }
        Ok(all)
    }
}

/// Returns the key as text, as the delivery log stores it.
pub fn recipient_key_text(person: &Recipient) -> String {
    person.key.as_str().map_or_else(|| person.key.to_string(), str::to_owned)
}
