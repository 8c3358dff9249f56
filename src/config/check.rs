//! Validates what types cannot express in the configuration.

use std::time::Duration;

use super::{Config, DkimConfig, EgressRule, GeoHttpConfig, MailConfig, Secret, SmtpConfig, SmtpTls, WebhooksConfig};
use crate::codes;
use afterload_server::api::TrustedProxies;
use afterload_spanned_yaml::{Diagnostic, FaultKind, YamlNode, suggestion_hint};

/// The longest timeout of an outgoing call.
const MAX_CALL_TIMEOUT: Duration = Duration::from_secs(86_400);
/// The shortest timeout for a peer.
const MIN_PEER_TIMEOUT: Duration = Duration::from_millis(1);
/// The queue counts in whole seconds, and a lease is renewed three times before it expires.
const MIN_LEASE: Duration = Duration::from_secs(3);
const MAX_LEASE: Duration = Duration::from_secs(3600);
/// The minimum length of the secret key.
const MIN_SECRET_KEY_CHARS: usize = 32;
const WEBHOOK_SECRET_HINT: &str =
    "write `whsec_` and 24 to 64 bytes in Base64, such as `whsec_$(openssl rand -base64 32)`";

/// All problems, with their position if they are in the file.
pub fn check_config(config: &Config, root: &YamlNode) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    problems.extend(check_shared_secret_key(config, root));
    let mut problem = |path: &[&str], message: String, hint: &str| {
        problems
            .push(Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(path).span, message).with_hint(hint));
    };
    let database = config.database.as_ref().map(|url| url.expose_secret().to_owned()).unwrap_or_default();
    if !database.is_empty() && !is_database_url(&database) {
        problem(&["database"], "not the address of a database".into(), DATABASE_URL_HINT);
    }
    let is_short = |key: &Secret| key.expose_secret().chars().count() < MIN_SECRET_KEY_CHARS;
    if config.secret_key.as_ref().is_some_and(is_short) {
        let message = format!("`secret_key` has fewer than {MIN_SECRET_KEY_CHARS} characters");
        problem(&["secret_key"], message, "make one with `openssl rand -hex 32`");
    }
    for (index, _) in config.previous_secret_keys.iter().enumerate().filter(|(_, key)| is_short(key)) {
        let message = format!("a key of `previous_secret_keys` has fewer than {MIN_SECRET_KEY_CHARS} characters");
        problem(&["previous_secret_keys", &index.to_string()], message, "list whole values that `secret_key` had");
    }
    for (name, connection) in &config.connections {
        if !is_database_url(connection.url.expose_secret()) {
            problem(&["connections", name, "url"], "not the address of a database".into(), DATABASE_URL_HINT);
        }
    }
    for (name, queue) in &config.queues {
        if !afterload_core::units::is_queue_name(name) {
            let hint =
                "start with a small letter, go on with small letters, digits, `-` and `_`, at most 63 characters";
            problem(&["queues", name], format!("`{name}` is not a name for a queue"), hint);
        }
        if !(1..=1000).contains(&queue.concurrency) {
            problem(&["queues", name, "concurrency"], "`concurrency` must be from 1 to 1000".into(), "");
        }
    }
    for (name, bucket) in &config.objects.buckets {
        let Some(store) = &bucket.store else { continue };
        if bucket.public {
            let hint = "let the store itself say who may read the bucket";
            problem(&["objects", "buckets", name, "public"], "`public` is for embedded buckets".into(), hint);
        }
        if !config.objects.stores.contains_key(store) {
            let hint = match suggestion_hint(store, config.objects.stores.keys().map(String::as_str)) {
                hint if hint.is_empty() => "declare it under `objects.stores`".into(),
                hint => hint,
            };
            problem(&["objects", "buckets", name, "store"], format!("unknown store `{store}`"), &hint);
        }
    }
    if !(1..=1000).contains(&config.limits.crashes) {
        problem(&["limits", "crashes"], "`crashes` must be from 1 to 1000".into(), "");
    }
    if !(1..=1000).contains(&config.limits.hops) {
        problem(&["limits", "hops"], "`hops` must be from 1 to 1000".into(), "");
    }
    if !(MIN_LEASE..=MAX_LEASE).contains(&config.limits.lease.0) {
        problem(&["limits", "lease"], "`lease` must be from `3s` to `1h`".into(), "");
    }
    let image = &config.limits.image;
    if image.decode > image.memory {
        let hint = "all pictures together must be allowed what one is";
        problem(&["limits", "image", "decode"], "`decode` is more than `memory`".into(), hint);
    }
    problems.extend(check_server(config, root));
    problems.extend(check_peers(config, root));
    problems.extend(check_http(config, root));
    problems.extend(check_geo(config, root));
    problems.extend(config.mail.smtp.iter().flat_map(|smtp| check_smtp(smtp, root)));
    problems.extend(check_mail_rates(&config.mail, root));
    problems.extend(config.mail.dkim.iter().flat_map(|dkim| check_dkim(dkim, root)));
    problems
}

/// The processes that share a database also share what they sign with.
fn check_shared_secret_key(config: &Config, root: &YamlNode) -> Option<Diagnostic> {
    let database = config.database.as_ref().map(|url| url.expose_secret().to_owned()).unwrap_or_default();
    if config.secret_key.is_some() || !is_postgres_url(&database) {
        return None;
    }
    let message = "missing field `secret_key`, which a PostgreSQL database needs";
    let missing = Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(&["database"]).span, message)
        .with_hint("all processes must share one; make it with `openssl rand -hex 32`");
    Some(Diagnostic { fault: FaultKind::MissingField("secret_key"), ..missing })
}

fn check_server(config: &Config, root: &YamlNode) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut problem = |path: &[&str], message: String, hint: &str| {
        problems
            .push(Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(path).span, message).with_hint(hint));
    };
    for origin in config.cors.iter().flatten().filter(|origin| !is_origin(origin)) {
        let hint = "write it as browsers do, without a path: `https://shop.example`";
        problem(&["cors"], format!("`{origin}` is not an origin"), hint);
    }
    if let Some(url) = &config.public_url
        && !url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
    {
        problem(&["public_url"], "`public_url` must start with `http://` or `https://`".into(), "");
    }
    if !(1..=1_000_000).contains(&config.limits.wrong_keys) {
        problem(&["limits", "wrong_keys"], "`wrong_keys` must be from 1 to 1000000".into(), "");
    }
    for entry in config.trusted_proxies.iter().filter(|entry| TrustedProxies::parse_network(entry).is_none()) {
        let hint = "such as `127.0.0.1` or `10.0.0.0/8`";
        problem(&["trusted_proxies"], format!("`{entry}` is neither an address nor a network"), hint);
    }
    problems
}

/// The limits on connections and watchers: none may be nothing.
fn check_peers(config: &Config, root: &YamlNode) -> Vec<Diagnostic> {
    let (connections, watchers) = (&config.limits.connections, &config.limits.watchers);
    let counts = [
        ("connections", "api", connections.api.unwrap_or(1)),
        ("connections", "s3", connections.s3.unwrap_or(1)),
        ("watchers", "per_run", watchers.per_run),
        ("watchers", "total", watchers.total),
    ];
    let times = [
        ("connections", "header_timeout", connections.header_timeout),
        ("connections", "idle_timeout", connections.idle_timeout),
        ("connections", "body_window", connections.body_window),
        ("connections", "write_timeout", connections.write_timeout),
        ("watchers", "recheck", watchers.recheck),
    ];
    let counts = counts.into_iter().filter(|(.., count)| *count == 0).map(|(group, name, _)| (group, name));
    let times = times.into_iter().filter(|(.., time)| !(MIN_PEER_TIMEOUT..=MAX_CALL_TIMEOUT).contains(&time.0));
    let counts = counts.map(|(group, name)| (group, name, format!("`{name}` must be at least 1")));
    let times = times.map(|(group, name, _)| (group, name, format!("`{name}` must be from `1ms` to `1d`")));
    counts
        .chain(times)
        .map(|(group, name, message)| {
            let span = root.closest_node(&["limits", group, name]).span;
            Diagnostic::new(codes::DEFINITION_INVALID, span, message)
        })
        .collect()
}

fn check_geo(config: &Config, root: &YamlNode) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (name, service) in &config.geo.http {
        let mut problem = |path: &[&str], message: String, hint: String| {
            let at = root.closest_node(&[&["geo", "http", name], path].concat()).span;
            problems.push(Diagnostic::new(codes::DEFINITION_INVALID, at, message).with_hint(hint));
        };
        let service = service.with_preset();
        // A value from the environment may be missing here.
        let url = service.url.as_deref().unwrap_or_default();
        let address = url::Url::parse(&url.replace("{ip}", "192.0.2.1"));
        if !url.contains("{ip}") || !address.is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            let message = "`url` is not the address of a service, with `{ip}` where the address goes".into();
            problem(&["url"], message, "such as `https://geo.example/{ip}`, or name a `preset`".into());
        }
        if service.fields.is_empty() {
            problem(
                &["fields"],
                "nothing would be read of the answers".into(),
                "such as `fields: { city: /city }`".into(),
            );
        }
        for (field, pointer) in &service.fields {
            if !GeoHttpConfig::MAPPABLE_FIELDS.contains(&field.as_str()) {
                let known = GeoHttpConfig::MAPPABLE_FIELDS.map(|field| format!("`{field}`")).join(", ");
                problem(&["fields", field], format!("there is no field `{field}`"), format!("there are {known}"));
            }
            if !pointer.starts_with('/') {
                let message = format!("`{pointer}` is not a JSON pointer");
                problem(&["fields", field], message, "such as `/location/city`".into());
            }
        }
        if service.per_minute.is_some_and(|calls| !(1..=60_000).contains(&calls)) {
            problem(&["per_minute"], "`per_minute` must be from 1 to 60000".into(), String::new());
        }
        if service.timeout.0.is_zero() || service.timeout.0 > MAX_CALL_TIMEOUT {
            problem(&["timeout"], "`timeout` must be more than nothing and at most `1d`".into(), String::new());
        }
    }
    problems
}

fn check_http(config: &Config, root: &YamlNode) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut problem = |path: &[&str], message: String, hint: &str| {
        problems
            .push(Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(path).span, message).with_hint(hint));
    };
    for entry in config.http.allow.iter().filter(|entry| EgressRule::parse(entry).is_none()) {
        let hint = "such as `127.0.0.1`, `10.0.0.0/8`, `internal.example` or `*.corp.example:8080`";
        problem(&["http", "allow"], format!("`{entry}` is neither an address, a network nor a name"), hint);
    }
    let total = config.limits.http.total.0;
    if total.is_zero() || total > MAX_CALL_TIMEOUT {
        problem(&["limits", "http", "total"], "`total` must be more than nothing and at most `1d`".into(), "");
    }
    let unfit = |secret: &&Secret| WebhooksConfig::decode_secret(secret).is_none();
    if config.webhooks.secret.as_ref().filter(unfit).is_some() {
        problem(&["webhooks", "secret"], "`secret` is not a secret for webhooks".into(), WEBHOOK_SECRET_HINT);
    }
    for (name, secret) in &config.webhooks.events {
        if !afterload_core::units::is_event_name(name) {
            let hint = "letters, digits, `.`, `_` and `-`, at most 100, such as `order.accepted`";
            problem(&["webhooks", "events", name], format!("`{name}` is not a name for an event"), hint);
        }
        if unfit(&secret) {
            let message = format!("`{name}` has no secret for webhooks");
            problem(&["webhooks", "events", name], message, WEBHOOK_SECRET_HINT);
        }
    }
    problems
}

fn check_smtp(smtp: &SmtpConfig, root: &YamlNode) -> Vec<Diagnostic> {
    let unprotected = smtp.password.is_some() && smtp.tls == SmtpTls::None;
    let rules = [
        (smtp.host.is_empty(), "host", "`host` must not be empty", ""),
        (
            smtp.user.is_some() != smtp.password.is_some(),
            "user",
            "`user` and `password` go together",
            "set both or none",
        ),
        (unprotected, "password", "a password needs TLS: anybody on the way could read it", "set `tls` to `starttls`"),
        (!(1..=100).contains(&smtp.connections), "connections", "`connections` must be from 1 to 100", ""),
    ];
    let broken = rules.into_iter().filter(|(is_broken, ..)| *is_broken);
    let problem = |(_, field, message, hint): (bool, &str, &str, &str)| {
        Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(&["mail", "smtp", field]).span, message)
            .with_hint(hint)
    };
    broken.map(problem).collect()
}

/// The key is read when the mailer is created.
fn check_dkim(dkim: &DkimConfig, root: &YamlNode) -> Vec<Diagnostic> {
    let rules = [
        (
            !dkim.has_valid_selector(),
            "selector",
            format!("`{}` is not a selector", dkim.selector),
            "write letters, digits, `-`, `_` and `.`, such as `s2026`",
        ),
        (
            dkim.ascii_domain().is_none(),
            "domain",
            format!("`{}` is not a domain", dkim.domain),
            "write the domain that answers for the mails, such as `example.com`",
        ),
    ];
    let broken = rules.into_iter().filter(|(is_broken, ..)| *is_broken);
    let problem = |(_, field, message, hint): (bool, &str, String, &str)| {
        Diagnostic::new(codes::DEFINITION_INVALID, root.closest_node(&["mail", "dkim", field]).span, message)
            .with_hint(hint)
    };
    broken.map(problem).collect()
}

fn check_mail_rates(mail: &MailConfig, root: &YamlNode) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (domain, mails) in &mail.per_minute {
        let at = root.closest_node(&["mail", "per_minute", domain]).span;
        let mut problem = |message: String, hint: &str| {
            problems.push(Diagnostic::new(codes::DEFINITION_INVALID, at, message).with_hint(hint));
        };
        let is_domain = !domain.contains('*') && matches!(url::Host::parse(domain), Ok(url::Host::Domain(_)));
        if domain != MailConfig::OTHERS && !is_domain {
            let hint =
                "write what stands behind the `@`, such as `gmail.com`, or `*` for each domain that is not named";
            problem(format!("`{domain}` is not the domain of an address"), hint);
        }
        if !(1..=60_000).contains(mails) {
            problem(format!("the mails a minute for `{domain}` must be from 1 to 60000"), "");
        }
    }
    problems
}

const DATABASE_URL_HINT: &str = "write `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/NAME`";

fn is_postgres_url(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn is_database_url(url: &str) -> bool {
    url.starts_with("sqlite:") || is_postgres_url(url)
}

/// True for a value that browsers send as `Origin`.
fn is_origin(text: &str) -> bool {
    let url = url::Url::parse(text);
    url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text)
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn cors_origins_have_the_form_of_the_origin_header() {
        for good in ["https://shop.example", "http://localhost:3000", "https://[::1]:8443"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in
            ["*", "null", "shop.example", "https://shop.example/", "https://Shop.example", "https://shop.example:443"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
