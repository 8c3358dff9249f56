//! Loads the configuration: reads the file, applies the environment, validates the result.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::check::check_config;
use super::environment::{overlay_variables, substitute_variables};
use super::{CheckpointMode, Config, ConnectionConfig, Secret};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::text::decode_utf8;
use afterload_spanned_yaml::{self as yaml, Diagnostic, SourceSpan, YamlNode, YamlValue};

/// The default configuration file.
pub const DEFAULT_CONFIG_FILE: &str = "afterload.yaml";

impl Config {
    /// Reads the file at `path` (default `afterload.yaml`, if it exists), applies the `AFTERLOAD_…` variables of `env`,
    /// and validates the result.
    ///
    /// # Errors
    /// `config_invalid` with every problem, `config_not_found`, or `io_error`.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let (name, text) = match path {
            Some(path) => (path.display().to_string(), Some(read_config_file(path)?)),
            None if Path::new(DEFAULT_CONFIG_FILE).exists() => {
                (DEFAULT_CONFIG_FILE.to_owned(), Some(read_config_file(Path::new(DEFAULT_CONFIG_FILE))?))
            }
            None => (DEFAULT_CONFIG_FILE.to_owned(), None),
        };
        Self::from_text(&name, text.as_deref().unwrap_or_default(), env.collect())
    }

    /// Same as [`Self::load`], from text. `name` names the file in messages.
    ///
    /// # Errors
    /// `config_invalid` with every problem.
    pub fn from_text(name: &str, text: &str, env: BTreeMap<String, String>) -> Result<Self> {
        let report = |problems: Vec<Diagnostic>| config_invalid_error(name, &problems);
        let mut root = yaml::parse(text).map_err(report)?;
        if matches!(root.value, YamlValue::Null) {
            root = YamlNode::new(root.span, YamlValue::Map(Vec::new()));
        }
        let mut problems = Vec::new();
        let substituted = substitute_variables(&mut root, &env, &mut problems);
        let unset: Vec<SourceSpan> = problems.iter().map(|problem| problem.span).collect();
        let origins = overlay_variables(&mut root, &env, &mut problems).with_substituted(substituted);
        let (config, found) = yaml::read_partial::<Self>(&root);
        problems.extend(found.into_iter().map(|problem| origins.redact_diagnostic(problem)));
        let Some(mut config) = config else { return Err(config_invalid_error(name, &problems)) };
        config.add_default_connection();
        problems.extend(check_config(&config, &root).into_iter().map(|problem| origins.redact_diagnostic(problem)));
        // If a variable is not set, report only that and no later problem of the same value.
        let mut reported: Vec<SourceSpan> = Vec::new();
        problems.retain(|problem| {
            let first = !unset.contains(&problem.span) || !reported.contains(&problem.span);
            reported.push(problem.span);
            first
        });
        match problems.is_empty() {
            true => Ok(config),
            false => Err(config_invalid_error(name, &yaml::sort_diagnostics(problems))),
        }
    }

    /// Adds the default connection `app` if it is not configured.
    pub fn add_default_connection(&mut self) {
        let url = format!("sqlite://{}", self.data.join("app.db").display());
        self.connections.entry("app".into()).or_insert_with(|| ConnectionConfig {
            url: Secret::new(url),
            schema: None,
            read_only: false,
            checkpoints: CheckpointMode::default(),
            functions: Vec::new(),
        });
    }
}

fn read_config_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(codes::CONFIG_NOT_FOUND, format!("there is no file `{}`", path.display()))
        }
        _ => Error::from(error).context(format!("reading `{}`", path.display())),
    })?;
    decode_utf8(bytes).map_err(|fault| {
        Error::new(codes::CONFIG_INVALID, format!("`{}`: {fault}", path.display())).with_hint(fault.hint())
    })
}

/// One error for all problems. Problems of the environment have no line.
fn config_invalid_error(name: &str, problems: &[Diagnostic]) -> Error {
    let mut message = String::from("the configuration is not valid");
    let mut facts = Vec::new();
    for Diagnostic { code, span, message: what, hint, .. } in problems {
        let place = if span.line == 0 { String::new() } else { format!("{name}:{}:{}: ", span.line, span.col) };
        let hint_text = hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(message, "\n  {place}{what} [{code}]{hint_text}");
        facts.push(json!({
            "file": name, "line": span.line, "col": span.col, "code": code, "message": what, "hint": hint,
        }));
    }
    Error::new(codes::CONFIG_INVALID, message).with_details(facts.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, env: &[(&str, &str)]) -> Result<Config> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_text("afterload.yaml", text, env)
    }

    #[test]
    fn the_default_config_is_embedded() {
        let config = config("", &[]).expect("the defaults");
        assert_eq!(config.connections["app"].url.expose_secret(), "sqlite://data/app.db");
        assert_eq!(config.database_url(), "sqlite://data/afterload.db");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "listen: 127.0.0.1:1\nqueues: { images: { concurrency: 2 } }\nsecrets: { token: \"${TOKEN}-x$${y}\" }\nlimits: { crashes: \"${CRASHES}\" }\n";
        let env = [
            ("AFTERLOAD_LISTEN", "127.0.0.1:2"),
            ("AFTERLOAD_QUEUES__IMAGES__CONCURRENCY", "7"),
            ("AFTERLOAD_CONNECTIONS__SHOP__URL", "postgres://db/shop"),
            ("AFTERLOAD_LIMITS__BODY", "2mb"),
            ("AFTERLOAD_ADMIN_KEY", "x"),
            ("AFTERLOAD_TEST_CRASH", "x"),
            ("TOKEN", "abc"),
            ("CRASHES", "7"),
        ];
        let config = config(text, &env).expect("valid");
        assert_eq!((config.listen.port(), config.limits.crashes), (2, 7));
        assert_eq!(config.queues["images"].concurrency, 7);
        assert_eq!(config.connections["shop"].url.expose_secret(), "postgres://db/shop");
        assert_eq!(config.secrets["token"].expose_secret(), "abc-x${y}");
    }

    #[test]
    fn previous_secret_keys_are_a_list_of_whole_keys() {
        let keys = "[a-key-of-more-than-32-characters-1, a-key-of-more-than-32-characters-2]";
        let env = [("AFTERLOAD_PREVIOUS_SECRET_KEYS", keys)];
        assert_eq!(config("", &env).expect("valid").previous_secret_keys.len(), 2);
        let error = config("previous_secret_keys: [a-key-of-more-than-32-characters-1, canary]\n", &[]);
        let error = error.expect_err("the second key is short");
        assert!(error.message().contains("afterload.yaml:1:60: a key of `previous_secret_keys` has fewer"), "{error}");
        assert!(!error.message().contains("canary"), "{error}");
    }

    #[test]
    fn an_unset_variable_is_reported_once_per_value() {
        let text = "listen: ${NOPE}\nqueues: { images: { concurrency: '${NOPE}' } }\nsecret_key: ${NOPE}\n";
        let error = config(text, &[]).expect_err("not set");
        assert_eq!(error.message().lines().count(), 4, "{error}");
        assert_eq!(error.message().matches("environment variable `NOPE` is not set").count(), 3, "{error}");
    }

    #[test]
    fn an_invalid_address_is_reported_with_an_example() {
        let expected = "expected an address such as `127.0.0.1:8080`";
        let error = config("", &[("AFTERLOAD_LISTEN", "foo")]).expect_err("no address");
        assert!(error.message().contains(&format!("variable `AFTERLOAD_LISTEN`: {expected}")), "{error}");
        let error = config("objects: { listen: foo }", &[]).expect_err("no address");
        assert!(error.message().contains(&format!("afterload.yaml:1:20: {expected}, found the text `foo`")), "{error}");
    }

    #[test]
    fn invalid_http_and_webhook_settings_are_reported_without_secrets() {
        let text = "
http: { allow: [127.1, 10.0.0.0/8] }
webhooks: { secret: canary, events: { a b: whsec_canary, order.paid: whsec_canary } }
limits: { http: { total: 0s } }
";
        let error = config(text, &[]).expect_err("full of faults");
        assert!(!format!("{error} {:?}", error.details()).contains("canary"), "{error}");
        for fault in [
            "`127.1` is neither an address, a network nor a name",
            "`secret` is not a secret for webhooks",
            "`a b` is not a name for an event",
            "`order.paid` has no secret for webhooks",
            "`total` must be more than nothing",
        ] {
            assert!(error.message().contains(fault), "{fault}: {error}");
        }
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let text = format!(
            "http: {{ allow: ['127.0.0.1:80'] }}\nwebhooks: {{ secret: {secret}, events: {{ a.b: {secret} }} }}\n"
        );
        config(&text, &[]).expect("nothing is wrong");
    }

    #[test]
    fn trusted_proxies_are_addresses_or_networks() {
        let text = "trusted_proxies: [127.0.0.1, 10.0.0.0/8, '2001:db8::/32']\nlimits: { wrong_keys: 5 }\n";
        let good = config(text, &[]).expect("valid");
        assert_eq!(good.server_config().max_wrong_keys, 5);
        let error =
            config("trusted_proxies: [proxy.example]\nlimits: { wrong_keys: 0 }\n", &[]).expect_err("two faults");
        for fault in ["`proxy.example` is neither an address nor a network", "`wrong_keys` must be from 1 to 1000000"] {
            assert!(error.message().contains(fault), "{fault}: {error}");
        }
    }

    #[test]
    fn mail_rates_are_validated() {
        let text = "mail: { per_minute: { gmail.com: 60, bücher.example: 1, '*': 60000 } }\nlimits: { mail: { attachments: 1mb } }";
        let good = config(text, &[]).expect("valid");
        assert_eq!((good.mail.per_minute["*"], good.limits.mail.attachments.0), (60_000, 1 << 20));
        let error = config("mail: { per_minute: { 'a@b.example': 5, '*.example': 5, gmail.com: 0, '*': 60001 } }", &[]);
        let error = error.expect_err("four faults");
        for fault in [
            "afterload.yaml:1:38: `a@b.example` is not the domain of an address",
            "`*.example` is not the domain of an address",
            "the mails a minute for `gmail.com` must be from 1 to 60000",
            "the mails a minute for `*` must be from 1 to 60000",
        ] {
            assert!(error.message().contains(fault), "{fault}: {error}");
        }
    }

    #[test]
    fn dkim_settings_may_come_from_the_environment() {
        let env = [
            ("AFTERLOAD_MAIL__DKIM__SELECTOR", "s2026"),
            ("AFTERLOAD_MAIL__DKIM__DOMAIN", "bücher.example"),
            ("AFTERLOAD_MAIL__DKIM__KEY_FILE", "/run/secrets/dkim.pem"),
            ("AFTERLOAD_MAIL__SMTPUTF8", "true"),
        ];
        let mail = config("", &env).expect("valid").mail;
        let dkim = mail.dkim.expect("given");
        assert_eq!((dkim.selector.as_str(), dkim.ascii_domain().as_deref()), ("s2026", Some("xn--bcher-kva.example")));
        assert!(mail.smtputf8);
        let error = config("mail: { dkim: { selector: s, domain: a.example } }", &[]).expect_err("no key");
        assert!(error.message().contains("key_file"), "{error}");
    }

    #[test]
    fn file_that_is_not_utf8_names_its_first_wrong_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("afterload.yaml");
        std::fs::write(&path, b"data: caf\xe9\n").unwrap();
        let error = read_config_file(&path).expect_err("not UTF-8");
        assert_eq!((error.code(), error.hint_text()), (codes::CONFIG_INVALID, Some("save it as UTF-8")));
        assert!(error.message().contains("the file is not UTF-8; byte 9 is the first that is wrong"), "{error}");
    }

    #[test]
    fn all_config_problems_are_reported_without_values() {
        let text = "
lsten: 127.0.0.1:1
data: ${NOWHERE}
database: postgres://user:canary@db/x
geo: { http: { here: { url: https://geo.example/ask } } }
mail: { dkim: { selector: a b, domain: 192.0.2.1, key_file: key.pem }, from: a@example.com }
objects: { buckets: { uploads: { store: minio } } }
queues: { Bad Queue: { concurrency: 0 } }
connections: { shop: { url: mysql://canary } }
limits: { upload: lots, crashes: '${MANY}', body: '${MANY}' }
";
        let env = [
            ("AFTERLOAD_NOTHING", "canary"),
            ("AFTERLOAD_QUEUES__IMAGES__CONCURRENCY", "canary"),
            ("AFTERLOAD_LIMITS__DRAIN", "canary"),
            ("AFTERLOAD_SECRET_KEY", "canary"),
            ("MANY", "canary"),
        ];
        let error = config(text, &env).expect_err("full of faults");
        assert!(!format!("{error} {:?}", error.details()).contains("canary"), "{error}");
        insta::assert_snapshot!(error.message());
    }
}
