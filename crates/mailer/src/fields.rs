//! Fields of step kinds that send mail, and the errors that concern one recipient only.

use std::collections::BTreeSet;

use super::MailAddress;
use crate::codes;
use afterload_core::error::{Error, ErrorCode};
use afterload_pipeline::{Templated, Validator};

/// Errors after which the next recipient may still work.
const RECIPIENT_ERROR_CODES: [ErrorCode; 5] = [
    codes::MAIL_RECIPIENT_REFUSED,
    codes::MAIL_REFUSED,
    codes::MAIL_DEFERRED,
    codes::MAIL_OUTCOME_UNKNOWN,
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

/// Checks that a mail at `at` has either a template, or a body with a subject.
pub fn check_text(check: &mut Validator<'_>, at: &[&str], (template, body, subject): (&Option<String>, bool, bool)) {
    let place = |name| [at, &[name]].concat();
    match (template, body) {
        (None, false) if !check.is_readable(&place("template")) || !check.is_readable(&place("body")) => {}
        (None, false) => check.report_invalid(at, "the mail has no text", "name a `template`, or write a `body`"),
        (Some(_), true) => {
            check.report_invalid(&place("body"), "`body` and `template` exclude each other", "remove one of them");
        }
        (None, true) if !subject && check.is_readable(&place("subject")) => {
            check.report_invalid(&place("body"), "a mail with a `body` needs a `subject`", "add `subject: …`");
        }
        (None, true) => {}
        (Some(template), false) => {
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
    if let Err(error) = MailAddress::parse_recipient(text) {
        check.report_invalid(path, error.message(), error.hint_text().unwrap_or_default());
    }
}

fn choices(known: &BTreeSet<String>) -> String {
    let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("there are {names}; a template is a folder under `templates/email/`")
}
