//! `email.send`: a mail to one or a few people, with links to files of the run, or with the files.

mod attachments;
mod deliver;
mod fields;
mod tally;
mod unsubscribe;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use fields::{AttachedFiles, MailAddresses, NamedFiles};
pub use unsubscribe::{Unsubscribe, UnsubscribeSettings};

use afterload_core::error::{Result, Retryability};
use afterload_core::units::HumanDuration;
use afterload_mailer::{
    CustomHeader, MailTurns, Mailer, TextFields, check_address, check_sender, check_text, find_content_ids,
    is_content_id,
};
use afterload_pipeline::{EncodedField, Templated, Validator, fill_html_template};
use afterload_step_api::{Step, StepContext};

/// Sends a mail, one copy per recipient. Promise: at least once and never silently lost; a copy that is known to have left is
/// not sent again by a retry, and every copy of the same mail to the same recipient carries the same Message-ID.
///
/// A mail that the server defers is tried again for about a day (`mail.retry_delays`), and the step is suspended
/// meanwhile; `defaults.retry` does not apply to it, the step's own `retry` does. A recipient that the server refuses is
/// not asked again. The error names the recipients that are `accepted`, `deferred`, `refused` and `uncertain`.
///
/// An address that is suppressed gets no mail and is counted as `suppressed`: with `unsubscribe` one that unsubscribed from the
/// list, and always one whose mails come back or that complained. A step that sends to nobody else succeeds.
///
/// While it waits for its turn under `mail.per_minute`, the step holds no worker, and its `timeout` does not run.
///
/// Its progress counts `mails`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSend {
    /// Who receives it: one address or a list, each `ops@example.com` or `Ops <ops@example.com>`.
    pub to: Templated<MailAddresses>,
    /// Who receives a copy.
    #[serde(default)]
    pub cc: Templated<MailAddresses>,
    /// Who receives a copy that the others are not told of.
    #[serde(default)]
    pub bcc: Templated<MailAddresses>,
    /// Where answers go, if not to the sender.
    #[serde(default)]
    pub reply_to: Option<Templated<String>>,
    /// More headers, such as `In-Reply-To`, `References`, `List-Unsubscribe` or `X-Order`; not those that the service sets
    /// itself.
    #[serde(default)]
    pub headers: BTreeMap<String, Templated<String>>,
    /// The sender; default `mail.from` of the configuration.
    #[serde(default)]
    pub from: Option<Templated<String>>,
    /// The subject; takes the place of the template's.
    #[serde(default)]
    pub subject: Option<Templated<String>>,
    /// The name of a folder under `templates/email/` with `subject.txt`, `body.txt` and `body.html` (one body may be missing).
    /// The styles of the HTML are written into its elements, where mail programs look for them.
    #[serde(default)]
    pub template: Option<String>,
    /// The mail as plain text, instead of a template; needs a `subject`.
    #[serde(default)]
    pub body: Option<Templated<String>>,
    /// The mail as HTML, beside `body` or instead of it; needs a `subject`. Values are escaped, unless they are marked by
    /// `safe_html`. Without a `body`, the plain text is made from it. Its styles are written into its elements.
    #[serde(default)]
    pub html: Option<Templated<String>>,
    /// Pictures that the HTML shows: the name of each with its file, such as `logo`, which `<img src="cid:logo">` shows. One
    /// that is `none` is left out; one that the HTML does not show is attached. They count as attachments.
    #[serde(default)]
    pub inline: NamedFiles,
    /// What the template can name, beside `run` (`id`, `url`, `pipeline`), `links` (each `label`, `url`), `subject` and
    /// `unsubscribe_url`.
    #[serde(default)]
    pub vars: Map<String, Value>,
    /// Files to link to, by label; one that is `none` is left out.
    #[serde(default)]
    pub links: NamedFiles,
    /// How long the links live, and their files at least as long; default `7d`.
    #[serde(default)]
    pub expires: Option<Templated<HumanDuration>>,
    /// What a retry does when the answer of an earlier attempt was lost, so that nobody knows whether the mail left.
    #[serde(default)]
    pub on_uncertain: OnUncertain,
    /// Files that travel in the mail itself: one or a list; one that is `none` is left out. Together they may have
    /// `limits.mail.attachments` (10 MiB); what is larger is better linked to.
    #[serde(default)]
    pub attach: Templated<AttachedFiles>,
    /// `true`, or `{ list: NAME }`: each recipient gets a separate mail with a link that takes the address off the list, by one
    /// click in the mail program (`List-Unsubscribe`) or on a page. A template names it `unsubscribe_url`; a `body` ends with
    /// it. Needs `public_url`.
    #[serde(default)]
    pub unsubscribe: Unsubscribe,
}

/// What a retry does when nobody knows whether the mail left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUncertain {
    /// Sends it again, with the same Message-ID; somebody may receive it twice.
    #[default]
    Resend,
    /// Fails with `mail_uncertain`, for a person to decide.
    Hold,
}

/// What later steps can name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EmailSendOutputs {
    /// The Message-ID of every copy, in the order `to`, `cc`, `bcc`.
    pub message_ids: Vec<String>,
    /// How many copies have been sent.
    pub sent: u64,
    /// How many recipients got none because their address is suppressed.
    pub suppressed: u64,
}

impl Step for EmailSend {
    const KIND: &'static str = "email.send";
    const EXAMPLE: &'static str = r#"
to: "${{ params.email }}"
template: import_done
vars: { rows: 10, inserted: 8, updated: 1, skipped: 0, rejected: 1 }
links: { rejected rows: "${{ steps.import.errors_file }}" }
"#;
    const MORE_EXAMPLES: &'static [&'static str] = &[r#"
to: "${{ params.email }}"
subject: Your photo
body: "Dear ${{ params.name }}, your photo is ready."
html: |
  <p>Dear ${{ params.name }},</p>
  <p>your photo is ready:<br><img src="cid:photo" alt="Your photo"></p>
inline: { photo: "${{ params.photo }}" }
"#];
    const ENCODED_FIELDS: &'static [EncodedField] = &[EncodedField::html(&["html"])];
    type Outputs = EmailSendOutputs;
    type Deps = Mailer;

    fn check(&self, check: &mut Validator<'_>) {
        let text = TextFields {
            template: self.template.as_ref(),
            has_body: self.body.is_some(),
            has_html: self.html.is_some(),
            has_subject: self.subject.is_some(),
        };
        check_text(check, &[], text);
        self.check_pictures(check);
        self.check_addresses(check);
        self.check_headers(check);
        self.check_unsubscribe(check);
        for name in
            ["links", "run", "subject", "unsubscribe_url"].into_iter().filter(|name| self.vars.contains_key(*name))
        {
            check.report_invalid(
                &["vars", name],
                format!("`{name}` is a name of its own in templates"),
                "choose another name",
            );
        }
        if let Some(expires) = self.expires.as_ref().and_then(Templated::as_literal)
            && deliver::check_link_lifetime(*expires).is_err()
        {
            check.report_invalid(&["expires"], deliver::LINK_LIFETIME_ERROR, deliver::LINK_LIFETIME_HINT);
        }
    }

    async fn run(mut self, ctx: StepContext, mailer: Mailer) -> Result<EmailSendOutputs> {
        let (attached, inline) = (std::mem::take(&mut self.attach), std::mem::take(&mut self.inline));
        let attachments = attachments::read_attachments(attached, inline, &ctx, &mailer).await?;
        let reserved = if mailer.has_rate_limits() { ctx.reserved_turns().await? } else { Value::Null };
        let turns = MailTurns::new(&mailer, reserved);
        let post = deliver::MailJob {
            mailer: &mailer,
            run: &ctx.run,
            verifier: ctx.files.verifier(),
            links: ctx.links.as_ref(),
            key: &ctx.step.key,
            effects: ctx.effect_log.as_ref(),
            first_attempt: ctx.is_first_attempt(),
            progress: &ctx.progress,
            turns: &turns,
            waits: &ctx.waits,
        };
        let tally = post.send_mail(self, attachments).await?;
        if let Some(turn) = tally.next_turn() {
            let deferred = tally.first_deferral().and(mailer.retry_delays().first()).copied();
            return Err(ctx.suspend_for_turn(turn, deferred, turns.reservations().await).await?);
        }
        if tally.first_deferral().is_none() || ctx.step.own_retry {
            return tally.into_outputs();
        }
        match ctx.suspend_for_retry(mailer.retry_delays()).await? {
            Some(suspended) => Err(suspended),
            None => tally.into_outputs().map_err(|error| error.with_retryability(Retryability::Permanent)),
        }
    }
}

/// Stands for an expression in HTML that is not resolved yet. No name of a picture holds it.
const UNKNOWN_VALUE: char = char::REPLACEMENT_CHARACTER;

impl EmailSend {
    /// Compares the inline files with the pictures that the HTML shows, as far as they are known. What a template shows is known
    /// when it is rendered.
    fn check_pictures(&self, check: &mut Validator<'_>) {
        let names: BTreeSet<&str> = self.inline.0.iter().map(|(name, _)| name.as_str()).collect();
        for name in names.iter().filter(|name| !is_content_id(name)) {
            let hint = "use letters, digits, `.`, `_` and `-`, at most 60, such as `logo`";
            check.report_invalid(&["inline", name], format!("`{name}` is not a name for a picture"), hint);
        }
        let html = match &self.html {
            Some(Templated::Value(html) | Templated::Expression(html)) => html,
            None if names.is_empty() || self.template.is_some() || !check.is_readable(&["html"]) => return,
            None => {
                let hint = "add `html` with `<img src=\"cid:NAME\">`, or use `attach`";
                return check.report_invalid(
                    &["inline"],
                    "`inline` is for pictures in HTML, and the mail has none",
                    hint,
                );
            }
        };
        let (html, is_open) = fill_html_template(html, &UNKNOWN_VALUE.to_string());
        let (unknown, shown): (Vec<_>, Vec<_>) =
            find_content_ids(&html).into_iter().partition(|name| name.contains(UNKNOWN_VALUE));
        for name in shown.iter().filter(|name| !names.contains(name.as_str())) {
            let hint = format!("add `inline: {{ {name}: … }}`");
            check.report_invalid(&["html"], format!("the HTML shows `cid:{name}`, which is not in `inline`"), hint);
        }
        if is_open || !unknown.is_empty() {
            return;
        }
        for name in names.iter().filter(|name| !shown.iter().any(|shown| shown == *name)) {
            let hint = format!("write `<img src=\"cid:{name}\">` in `html`, or use `attach`");
            check.report_invalid(&["inline", name], format!("no element of the HTML shows `cid:{name}`"), hint);
        }
    }

    fn check_headers(&self, check: &mut Validator<'_>) {
        let mut seen = BTreeSet::new();
        for (name, value) in &self.headers {
            let path = ["headers", name.as_str()];
            let checked = match value.as_literal() {
                Some(value) => CustomHeader::parse(name, value).map(drop),
                None => CustomHeader::check_name(name),
            };
            if let Err(error) = checked {
                check.report_invalid(&path, error.message(), error.hint_text().unwrap_or_default());
            } else if !seen.insert(name.to_ascii_lowercase()) {
                check.report_invalid(&path, format!("the header `{name}` is given twice"), "remove one of them");
            }
        }
    }

    fn check_addresses(&self, check: &mut Validator<'_>) {
        for (field, addresses) in [("to", &self.to), ("cc", &self.cc), ("bcc", &self.bcc)] {
            let Some(addresses) = addresses.as_literal() else { continue };
            if field == "to" && addresses.iter().next().is_none() {
                check.report_invalid(&["to"], "the mail has no recipient", "name at least one address");
            }
            for (index, text) in addresses.iter().enumerate() {
                check_address(check, &[field, &index.to_string()], text);
            }
        }
        for (field, address) in [("from", &self.from), ("reply_to", &self.reply_to)] {
            check_sender(check, &[field], address.as_ref());
        }
    }
}

#[cfg(test)]
mod html_tests;
#[cfg(test)]
mod test_links;
#[cfg(test)]
mod test_suppressions;
#[cfg(test)]
mod tests;
