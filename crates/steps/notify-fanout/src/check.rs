//! What can be said of a fan-out before it runs.

use super::NotifyFanout;
use super::fields::{Deliver, Letter, TableRow};
use afterload_egress::check_target;
use afterload_mailer::{check_sender, check_text};
use afterload_pipeline::Check;
use afterload_target_db::{check_bind, check_sql, default_connection};

const NAME: &str = "name";

/// Gathers the problems of all fields.
pub fn check(step: &NotifyFanout, check: &mut Check<'_>) {
    audience(step, check);
    deliver(&step.deliver, check);
    if !(1..=100_000).contains(&step.chunk) {
        check.problem(&["chunk"], "`chunk` must be from 1 to 100000", "10000 is a good choice");
    }
    if step.parallel.is_some_and(|parallel| !(1..=8).contains(&parallel)) {
        check.problem(&["parallel"], "`parallel` must be from 1 to 8", "");
    }
}

fn audience(step: &NotifyFanout, check: &mut Check<'_>) {
    let (followers, mentions) = (&step.audience.followers, &step.audience.mentions);
    let writes = step.deliver.table.is_some();
    if followers.is_none() && mentions.is_none() {
        let hint = "name `followers`, `mentions`, or both";
        check.problem(&["audience"], "nobody would be told", hint);
    }
    if let Some(followers) = followers {
        let at = |field| ["audience", "followers", field];
        check.connection(&at("connection"), &followers.connection, writes);
        let sql = (&at("sql")[..], followers.sql.as_str());
        let command = check_sql(check, &followers.connection, sql, &followers.bind, &[]);
        if command.as_ref().is_some_and(|command| !command.reads()) {
            check.problem(&at("sql"), "people are found by a `SELECT`", "");
        }
        check_bind(check, (&at("bind"), &followers.bind), &[command]);
    }
    if let Some(mentions) = mentions {
        let at = |field| ["audience", "mentions", field];
        let of_followers = followers.as_ref().map(|followers| followers.connection.clone());
        let connection = mentions.connection.clone().or(of_followers.clone()).unwrap_or_else(default_connection);
        check.connection(&at("connection"), &connection, writes);
        if writes && of_followers.is_some_and(|other| other != connection) {
            let message = "rows are written by the database that the people are in, so there is one for all of them";
            check.problem(&at("connection"), message, "remove it; the connection of the followers is used");
        }
        let sql = (&at("sql")[..], mentions.sql.as_str());
        let command = check_sql(check, &connection, sql, &mentions.bind, &[NAME]);
        if let Some(command) = &command {
            if !command.reads() {
                check.problem(&at("sql"), "people are found by a `SELECT`", "");
            } else if !command.takes(NAME) {
                let hint = "such as `SELECT id FROM users WHERE handle = :name`";
                check.problem(&at("sql"), "nobody can be found by name without `:name`", hint);
            }
        }
        match mentions.bind.contains_key(NAME) {
            true => check.problem(&["audience", "mentions", "bind", NAME], "`name` is filled by the step", ""),
            false => check_bind(check, (&at("bind"), &mentions.bind), &[command]),
        }
    }
}

fn deliver(deliver: &Deliver, check: &mut Check<'_>) {
    let Deliver { table: row, email: letter, webhook: hook } = deliver;
    let ways = [("table", row.is_some()), ("email", letter.is_some()), ("webhook", hook.is_some())];
    let there: Vec<_> = ways.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    if let [first, second, ..] = there[..] {
        let message = format!("`{first}` and `{second}` exclude each other");
        check.problem(&["deliver", second], message, "use two steps");
    } else if there.is_empty() && ways.iter().all(|(name, _)| check.readable(&["deliver", name])) {
        check.problem(&["deliver"], "nobody would be told anything", "name `table`, `email` or `webhook`");
    }
    if let Some(row) = row {
        table(row, check);
    }
    if let Some(letter) = letter {
        email(letter, check);
    }
    if let Some(hook) = hook {
        check_target(check, &["deliver", "webhook"], &hook.url, &hook.headers);
    }
}

fn table(row: &TableRow, check: &mut Check<'_>) {
    let at = |field| ["deliver", "table", field];
    let mut written = vec![row.person.as_str()];
    let others = row.reason.as_deref().into_iter().map(|name| ("reason", name));
    let others = others.chain(row.values.keys().map(|name| ("values", name.as_str())));
    for (field, name) in others.chain(row.copy.keys().map(|name| ("copy", name.as_str()))) {
        if written.contains(&name) {
            check.problem(&at(field), format!("the column `{name}` is written twice"), "");
        }
        written.push(name);
    }
    if !row.keys.contains(&row.person) {
        let message = format!("`keys` lacks `{}`, so that only one person would get a row", row.person);
        check.problem(&at("keys"), message, "name the columns of the unique constraint");
    }
    for key in row.keys.iter().filter(|key| !written.contains(&key.as_str())) {
        check.problem(&at("keys"), format!("key `{key}` is not written"), "add it to `values`");
    }
}

fn email(letter: &Letter, check: &mut Check<'_>) {
    let at = ["deliver", "email"];
    check_text(check, &at, (&letter.template, letter.body.is_some(), letter.subject.is_some()));
    for (field, address) in [("from", &letter.from), ("reply_to", &letter.reply_to)] {
        check_sender(check, &["deliver", "email", field], address.as_ref());
    }
    for name in ["person", "reason", "run", "subject"].into_iter().filter(|name| letter.vars.contains_key(*name)) {
        let message = format!("`{name}` is a name of its own in templates");
        check.problem(&["deliver", "email", "vars", name], message, "choose another name");
    }
}
