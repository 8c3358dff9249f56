//! Checks a fan-out before it runs.

use super::NotifyFanout;
use super::fields::{DEFAULT_KEY, DeliverySpec, EmailSpec, TableRowSpec};
use afterload_egress::check_request_target;
use afterload_mailer::{TextFields, check_sender, check_text, find_content_ids};
use afterload_pipeline::params::TextPattern;
use afterload_pipeline::{Templated, Validator, fill_html_template};
use afterload_target_db::{check_bind, check_reads, check_result_column, check_sql, default_connection};

const NAME_PARAM: &str = "name";

/// Reports the problems of all fields.
pub fn check_fanout(step: &NotifyFanout, check: &mut Validator<'_>) {
    check_audience(step, check);
    check_deliver(&step.deliver, check);
    if !(1..=100_000).contains(&step.chunk) {
        check.report_invalid(&["chunk"], "`chunk` must be from 1 to 100000", "10000 is a good choice");
    }
    if step.parallel.is_some_and(|parallel| !(1..=8).contains(&parallel)) {
        check.report_invalid(&["parallel"], "`parallel` must be from 1 to 8", "");
    }
}

fn check_audience(step: &NotifyFanout, check: &mut Validator<'_>) {
    let (followers, mentions) = (&step.audience.followers, &step.audience.mentions);
    let writes = step.deliver.table.is_some();
    if followers.is_none() && mentions.is_none() {
        let hint = "name `followers`, `mentions`, or both";
        check.report_invalid(&["audience"], "nobody would be told", hint);
    }
    if let Some(followers) = followers {
        let at = |field| ["audience", "followers", field];
        check.check_connection(&at("connection"), &followers.connection, writes);
        let command = check_sql(check, &followers.connection, &at("sql"), &followers.sql, &followers.bind, &[]);
        check_reads(check, &followers.connection, &at("sql"), command.as_ref(), "people are found by a `SELECT`");
        check_result_column(check, &followers.connection, &at("key"), command.as_ref(), &followers.key);
        check_bind(check, &at("bind"), &followers.bind, &[command]);
    }
    if let Some(mentions) = mentions {
        let at = |field| ["audience", "mentions", field];
        if let Some(Err(why)) = mentions.pattern.as_deref().map(TextPattern::compile) {
            check.report_invalid(&at("pattern"), format!("`pattern` is not valid: {why}"), "such as `[a-z0-9_]{1,15}`");
        }
        let of_followers = followers.as_ref().map(|followers| followers.connection.clone());
        let connection = mentions.connection.clone().or(of_followers.clone()).unwrap_or_else(default_connection);
        check.check_connection(&at("connection"), &connection, writes);
        if writes && of_followers.is_some_and(|other| other != connection) {
            let message = "rows are written by the database that the people are in, so there is one for all of them";
            check.report_invalid(&at("connection"), message, "remove it; the connection of the followers is used");
        }
        let command = check_sql(check, &connection, &at("sql"), &mentions.sql, &mentions.bind, &[NAME_PARAM]);
        check_reads(check, &connection, &at("sql"), command.as_ref(), "people are found by a `SELECT`");
        let key = mentions.key.as_deref().or(followers.as_ref().map(|followers| followers.key.as_str()));
        let key_field = if mentions.key.is_some() { "key" } else { "sql" };
        check_result_column(check, &connection, &at(key_field), command.as_ref(), key.unwrap_or(DEFAULT_KEY));
        if command.as_ref().is_some_and(|command| command.is_read_only() && !command.has_parameter(NAME_PARAM)) {
            let hint = "such as `SELECT id FROM users WHERE handle = :name`";
            check.report_invalid(&at("sql"), "nobody can be found by name without `:name`", hint);
        }
        match mentions.bind.contains_key(NAME_PARAM) {
            true => {
                check.report_invalid(&["audience", "mentions", "bind", NAME_PARAM], "`name` is filled by the step", "");
            }
            false => check_bind(check, &at("bind"), &mentions.bind, &[command]),
        }
    }
}

fn check_deliver(deliver: &DeliverySpec, check: &mut Validator<'_>) {
    let DeliverySpec { table: row, email: letter, webhook: hook } = deliver;
    let ways = [("table", row.is_some()), ("email", letter.is_some()), ("webhook", hook.is_some())];
    let there: Vec<_> = ways.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    if let [first, second, ..] = there[..] {
        let message = format!("`{first}` and `{second}` exclude each other");
        check.report_invalid(&["deliver", second], message, "use two steps");
    } else if there.is_empty() && ways.iter().all(|(name, _)| check.is_readable(&["deliver", name])) {
        check.report_invalid(&["deliver"], "nobody would be told anything", "name `table`, `email` or `webhook`");
    }
    if let Some(row) = row {
        check_table(row, check);
    }
    if let Some(letter) = letter {
        check_email(letter, check);
    }
    if let Some(hook) = hook {
        check_request_target(check, &["deliver", "webhook"], &hook.url, &hook.headers);
    }
}

fn check_table(row: &TableRowSpec, check: &mut Validator<'_>) {
    let at = |field| ["deliver", "table", field];
    let mut written = vec![row.person.as_str()];
    let others = row.reason.as_deref().into_iter().map(|name| ("reason", name));
    let others = others.chain(row.values.keys().map(|name| ("values", name.as_str())));
    for (field, name) in others.chain(row.copy.keys().map(|name| ("copy", name.as_str()))) {
        if written.contains(&name) {
            check.report_invalid(&at(field), format!("the column `{name}` is written twice"), "");
        }
        written.push(name);
    }
    if !row.keys.contains(&row.person) {
        let message = format!("`keys` lacks `{}`, so that only one person would get a row", row.person);
        check.report_invalid(&at("keys"), message, "name the columns of the unique constraint");
    }
    for key in row.keys.iter().filter(|key| !written.contains(&key.as_str())) {
        check.report_invalid(&at("keys"), format!("key `{key}` is not written"), "add it to `values`");
    }
}

fn check_email(letter: &EmailSpec, check: &mut Validator<'_>) {
    let at = ["deliver", "email"];
    let text = TextFields {
        template: letter.template.as_ref(),
        has_body: letter.body.is_some(),
        has_html: letter.html.is_some(),
        has_subject: letter.subject.is_some(),
    };
    check_text(check, &at, text);
    check_pictures(letter, check);
    for (field, address) in [("from", &letter.from), ("reply_to", &letter.reply_to)] {
        check_sender(check, &["deliver", "email", field], address.as_ref());
    }
    for name in ["person", "reason", "run", "subject"].into_iter().filter(|name| letter.vars.contains_key(*name)) {
        let message = format!("`{name}` is a name of its own in templates");
        check.report_invalid(&["deliver", "email", "vars", name], message, "choose another name");
    }
}

/// Reports the pictures that the text of the HTML itself shows. A value that names one is no error of the mails: it may come from
/// anybody, and would keep the mail from all.
fn check_pictures(letter: &EmailSpec, check: &mut Validator<'_>) {
    let Some(Templated::Value(html) | Templated::Expression(html)) = &letter.html else { return };
    let (html, _) = fill_html_template(html, &char::REPLACEMENT_CHARACTER.to_string());
    for name in find_content_ids(&html).iter().filter(|name| !name.contains(char::REPLACEMENT_CHARACTER)) {
        let message = format!("the HTML shows `cid:{name}`, but no picture travels with these mails");
        let hint = "write the URL of the picture, or send the mail with `email.send`";
        check.report_invalid(&["deliver", "email", "html"], message, hint);
    }
}
