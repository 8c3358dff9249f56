//! Fields of step kinds that send mail, and the errors that concern one recipient only.

use std::collections::BTreeSet;

use super::MailAddress;
use crate::codes;
use afterload_core::error::{Error, ErrorCode};
use afterload_pipeline::{Templated, Validator};

/// Errors after which the next recipient may still work.
const RECIPIENT_ERROR_CODES: [ErrorCode; 6] = [
    codes::MAIL_RECIPIENT_REFUSED,
    codes::MAIL_REFUSED,
    codes::MAIL_DEFERRED,
    codes::MAIL_OUTCOME_UNKNOWN,
    codes::MAIL_SMTPUTF8_UNSUPPORTED,
    codes::MAIL_UNCERTAIN,
];
/// Errors after which the same mail may be accepted some minutes or hours later.
const DEFERRAL_ERROR_CODES: [ErrorCode; 3] =
    [codes::MAIL_DEFERRED, codes::MAIL_OUTCOME_UNKNOWN, codes::MAIL_SERVER_UNAVAILABLE];

/// True if the error concerns one recipient only.
pub fn is_recipient_error(error: &Error) -> bool {
    RECIPIENT_ERROR_CODES.contains(&error.code())
}

/// True if the mail should be tried again after one of the pauses of `mail.retry_delays`.
pub fn is_deferral_error(error: &Error) -> bool {
    DEFERRAL_ERROR_CODES.contains(&error.code())
}

/// The fields that hold the text of a mail.
#[derive(Clone, Copy, Debug)]
pub struct TextFields<'a> {
    /// The name of the template.
    pub template: Option<&'a String>,
    /// True if there is a plain text.
    pub has_body: bool,
    /// True if there is an HTML text.
    pub has_html: bool,
    /// True if there is a subject.
    pub has_subject: bool,
}

/// Checks that a mail at `at` has either a template, or a body, as text, HTML or both, with a subject.
pub fn check_text(check: &mut Validator<'_>, at: &[&str], fields: TextFields<'_>) {
    let place = |name| [at, &[name]].concat();
    let bodies = [("body", fields.has_body), ("html", fields.has_html)];
    let first_body = bodies.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name);
    match (fields.template, first_body) {
        (None, None) if ["template", "body", "html"].iter().any(|name| !check.is_readable(&place(name))) => {}
        (None, None) => {
            check.report_invalid(at, "the mail has no text", "name a `template`, or write a `body` or `html`");
        }
        (Some(_), Some(_)) => {
            for (name, _) in bodies.into_iter().filter(|(_, is_given)| *is_given) {
                let message = format!("`{name}` and `template` exclude each other");
                check.report_invalid(&place(name), message, "remove one of them");
            }
        }
        (None, Some(name)) if !fields.has_subject && check.is_readable(&place("subject")) => {
            let message = format!("a mail with a `{name}` needs a `subject`");
            check.report_invalid(&place(name), message, "add `subject: …`");
        }
        (None, Some(_)) => {}
        (Some(template), None) => {
            if let Some(fault) = check.ctx.broken_templates.get(template) {
                let message = format!("the mail template `{template}` cannot be used: {fault}");
                return check.report_invalid(&place("template"), message, "");
            }
            let Some(known) = &check.ctx.templates else { return };
            if !known.contains(template) {
                let choices = choices(known);
                check.report_invalid(&place("template"), format!("unknown mail template `{template}`"), choices);
            }
        }
    }
}

/// Checks an address if it is a literal.
pub fn check_sender(check: &mut Validator<'_>, at: &[&str], address: Option<&Templated<String>>) {
    if let Some(text) = address.and_then(Templated::as_literal) {
        check_address(check, at, text);
    }
}

/// Checks an address. An item of a list may still hold an expression, which only the run resolves.
pub fn check_address(check: &mut Validator<'_>, path: &[&str], text: &str) {
    if text.contains("${{") {
        return;
    }
    if let Err(error) = MailAddress::parse_any_recipient(text, check.ctx.smtputf8) {
        check.report_invalid(path, error.message(), error.hint_text().unwrap_or_default());
    }
}

fn choices(known: &BTreeSet<String>) -> String {
    let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("there are {names}; a template is a folder under `templates/email/`")
}
