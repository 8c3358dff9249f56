//! A mail for everybody, from a template that knows the person.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::each::{self, Trouble};
use super::fields::Letter;
use super::personal::{Part, Personal};
use afterload_core::error::{Error, Result};
use afterload_mailer::{Address, Content, Mail, Mailer, MessageId, NotSent, of_a_recipient};
use afterload_pipeline::Dynamic;
use afterload_step_api::{Context, RunFacts};
use afterload_target_db::Person;

use super::audience::key_text;

/// The way of mails.
pub struct Channel {
    mailer: Mailer,
    run: RunFacts,
    key: String,
    stop: CancellationToken,
    from: Address,
    reply_to: Option<Address>,
    personal: Personal,
    subject: Option<Part>,
    body: Option<Part>,
    letter: Letter,
}

impl Channel {
    /// Reads what is the same for everybody.
    pub fn new(ctx: &Context, mailer: &Mailer, mut letter: Letter) -> Result<Self> {
        let text = |field: Option<Dynamic<String>>| field.map(Dynamic::value).transpose();
        let from = match text(letter.from.take())? {
            Some(from) => Address::sender(&from)?,
            None => mailer.from().clone(),
        };
        let reply_to = text(letter.reply_to.take())?.map(|address| Address::recipient(&address)).transpose()?;
        let [subject, body] =
            [letter.subject.take(), letter.body.take()].map(|text| text.map(|text| Part::new(json!(text))));
        let personal = Personal::new(&ctx.scope, subject.iter().chain(&body));
        let (mailer, run, key) = (mailer.clone(), ctx.run.clone(), ctx.step.key.clone());
        let stop = ctx.stop.clone();
        Ok(Self { mailer, run, key, stop, from, reply_to, personal, subject, body, letter })
    }

    fn content(&self, person: &Person, reason: &str) -> Result<Content, Trouble> {
        let scope = self.personal.of(person, reason)?;
        let text = |part: &Option<Part>| part.as_ref().map(|part| part.text(&scope)).transpose();
        let (subject, body) = (text(&self.subject)?, text(&self.body)?);
        let Some(template) = &self.letter.template else {
            return Ok(Content { subject: subject.unwrap_or_default(), text: body.unwrap_or_default(), html: None });
        };
        let mut vars = self.letter.vars.clone();
        for (name, value) in [("person", json!(person.row)), ("reason", reason.into()), ("run", json!(self.run))] {
            vars.insert(name.to_owned(), value);
        }
        self.mailer.render(template, subject, vars).map_err(Trouble::Channel)
    }

    fn address(&self, person: &Person) -> Result<Address> {
        let column = &self.letter.address;
        match person.row.get(column) {
            Some(Value::String(text)) => Address::recipient(text),
            Some(Value::Null) => {
                Err(Error::permanent("mail_invalid_recipient", format!("`{}` has no address", key_text(person))))
            }
            _ => Err(Error::permanent("column_not_found", format!("the query gives no text in a column `{column}`"))
                .hint("name the column with the address in `deliver.email.address`")),
        }
    }
}

impl each::Channel for Channel {
    async fn tell(&self, person: &Person, reason: &'static str) -> Result<(), Trouble> {
        let to = self.address(person).map_err(|error| match error.code() {
            "column_not_found" => Trouble::Channel(error),
            _ => Trouble::Person(error),
        })?;
        let id = MessageId::derive(&format!("{}/{}", self.key, key_text(person)), &to, &self.from);
        let mail = Mail {
            from: self.from.clone(),
            reply_to: self.reply_to.clone(),
            to: vec![to.clone()],
            cc: Vec::new(),
            content: self.content(person, reason)?,
            attachments: Vec::new(),
            run: self.run.id.clone(),
        };
        self.mailer.turn(&to, &self.stop).await.map_err(Trouble::Channel)?;
        let sent = self.mailer.send(&mail, &to, &id).await;
        sent.map_err(|(NotSent::Certain(error) | NotSent::Uncertain(error))| match of_a_recipient(&error) {
            true => Trouble::Person(error),
            false => Trouble::Channel(error),
        })
    }
}
