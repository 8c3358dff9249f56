//! The field `unsubscribe`: each recipient gets a separate mail, with a link that takes the address off a list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::EmailSend;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_mailer::{CustomHeader, MailAddress, MailContent, OutgoingMail, is_list_name};
use afterload_pipeline::{Templated, Validator};

const LINK_HEADER: &str = "List-Unsubscribe";
const ONE_CLICK_HEADER: &str = "List-Unsubscribe-Post";
const DEFAULT_FOOTER: &str = "Unsubscribe";
const LIST_NAME_HINT: &str = "small letters, digits, `.`, `_` and `-`, at most 63, such as `weekly-news`";

/// Whether the recipients can unsubscribe, and from what.
#[derive(Clone, Debug, Default)]
pub struct Unsubscribe(pub(super) Option<UnsubscribeSettings>);

/// From what the recipients can unsubscribe.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnsubscribeSettings {
    /// The name of the list; default: the name of the pipeline.
    #[serde(default)]
    pub list: Option<Templated<String>>,
    /// What stands before the link at the end of a `body`; default `Unsubscribe`.
    #[serde(default)]
    pub footer: Option<Templated<String>>,
}

struct UnsubscribeVisitor;

impl<'de> Visitor<'de> for UnsubscribeVisitor {
    type Value = Unsubscribe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, or a map with `list`")
    }

    fn visit_bool<E: serde::de::Error>(self, wanted: bool) -> std::result::Result<Unsubscribe, E> {
        Ok(Unsubscribe(wanted.then(UnsubscribeSettings::default)))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> std::result::Result<Unsubscribe, A::Error> {
        UnsubscribeSettings::deserialize(MapAccessDeserializer::new(fields)).map(|settings| Unsubscribe(Some(settings)))
    }
}

impl<'de> Deserialize<'de> for Unsubscribe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UnsubscribeVisitor)
    }
}

impl JsonSchema for Unsubscribe {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Unsubscribe".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, generator.subschema_for::<UnsubscribeSettings>()] })
    }
}

/// A list from which the recipients can unsubscribe.
pub(super) struct UnsubscribeRule {
    pub list: String,
    footer: String,
}

impl UnsubscribeRule {
    /// Reads the resolved field.
    pub(super) fn from_field(field: Unsubscribe, pipeline: &str) -> Result<Option<Self>> {
        let Some(UnsubscribeSettings { list, footer }) = field.0 else { return Ok(None) };
        let list = list.map(Templated::into_value).transpose()?.unwrap_or_else(|| pipeline.to_owned());
        if !is_list_name(&list) {
            return Err(Error::new(codes::WITH_INVALID, list_name_error(&list)).with_hint(LIST_NAME_HINT));
        }
        let footer = footer.map(Templated::into_value).transpose()?.unwrap_or_else(|| DEFAULT_FOOTER.to_owned());
        Ok(Some(Self { list, footer }))
    }

    /// Adds the link to the end of a body. A template places it itself.
    pub(super) fn add_footer(&self, content: MailContent, url: &str) -> MailContent {
        let text = format!("{}\n\n{}: {url}\n", content.text.trim_end(), self.footer);
        let html = content.html.map(|mut html| {
            let link = format!("<p><a href=\"{}\">{}</a></p>\n", escape_html(url), escape_html(&self.footer));
            let end = html.to_ascii_lowercase().rfind("</body>").unwrap_or(html.len());
            html.insert_str(end, &link);
            html
        });
        MailContent { text, html, ..content }
    }
}

/// Writes the content of the mail with this link.
pub(super) type RenderContent<'a> = &'a (dyn Fn(&str) -> Result<MailContent> + Send + Sync);

/// What the mails of the recipients do not share.
pub(super) struct PersonalMails<'a> {
    /// The links by mailbox key.
    pub urls: BTreeMap<String, String>,
    pub render: RenderContent<'a>,
}

impl PersonalMails<'_> {
    /// The mail to one recipient. It names nobody else, because whoever reads it can follow its link.
    pub(super) fn write_for(&self, recipient: &MailAddress, mail: &OutgoingMail) -> Result<OutgoingMail> {
        let url = self.urls.get(&recipient.mailbox_key()).ok_or_else(|| {
            let message = format!("there is no link by which `{recipient}` unsubscribes");
            Error::new(codes::MAIL_UNSUBSCRIBE_UNAVAILABLE, message)
        })?;
        let content = (self.render)(url)?;
        let mut own = OutgoingMail { to: vec![recipient.clone()], cc: Vec::new(), content, ..mail.clone() };
        own.headers.push(CustomHeader::parse(LINK_HEADER, &format!("<{url}>"))?);
        own.headers.push(CustomHeader::parse(ONE_CLICK_HEADER, "List-Unsubscribe=One-Click")?);
        Ok(own)
    }
}

impl EmailSend {
    pub(super) fn check_unsubscribe(&self, check: &mut Validator<'_>) {
        let Some(settings) = &self.unsubscribe.0 else { return };
        if check.ctx.has_public_url == Some(false) {
            let message = "a link to unsubscribe needs the public URL of the service";
            check.report_invalid(&["unsubscribe"], message, "set `public_url` in the configuration");
        }
        if let Some(list) = settings.list.as_ref().and_then(Templated::as_literal)
            && !is_list_name(list)
        {
            check.report_invalid(&["unsubscribe", "list"], list_name_error(list), LIST_NAME_HINT);
        }
        let is_ours = |name: &&String| [LINK_HEADER, ONE_CLICK_HEADER].iter().any(|own| own.eq_ignore_ascii_case(name));
        for name in self.headers.keys().filter(is_ours) {
            let message = format!("`unsubscribe` sets the header `{name}` itself");
            check.report_invalid(&["headers", name], message, "remove one of them");
        }
    }
}

fn list_name_error(list: &str) -> String {
    format!("`{}` is not a name for a list", afterload_core::text::shorten_text(list, 100))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_ends_the_text_and_the_html() {
        let rule = UnsubscribeRule { list: "news".into(), footer: "No <more>".into() };
        let content = |html: Option<&str>| MailContent {
            subject: "S".into(),
            text: "Text\n".into(),
            html: html.map(str::to_owned),
        };
        let url = "https://a.example/u/x?a&b";
        let plain = rule.add_footer(content(None), url);
        assert_eq!((plain.text.as_str(), plain.html), ("Text\n\nNo <more>: https://a.example/u/x?a&b\n", None));
        let link = "<p><a href=\"https://a.example/u/x?a&amp;b\">No &lt;more&gt;</a></p>\n";
        for (html, expected) in
            [("<p>a</p>", format!("<p>a</p>{link}")), ("<BODY>a</BODY></html>", format!("<BODY>a{link}</BODY></html>"))]
        {
            assert_eq!(rule.add_footer(content(Some(html)), url).html, Some(expected));
        }
    }
}
