//! `afterload mail`: previews mails, and the addresses that receive none.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::suppressions::SuppressionsArgs;
use crate::config::Config;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_engine::run_url;
use afterload_mailer::Mailer;

/// The run id in previews.
const PREVIEW_RUN_ID: &str = "01J00000000000000000000000";

/// What to do with mails.
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// Render a template and write its HTML and text to files, to view them in a browser.
    Preview(PreviewArgs),
    /// List, add and remove addresses that receive no mails.
    Suppressions(SuppressionsArgs),
}

/// A mail to preview.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// The template: a folder under `templates/email/`, or a built-in one.
    pub template: String,
    /// A variable of the template: `NAME=VALUE`, the value as JSON or text. Other variables come from the template's
    /// `preview.yaml`.
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE", value_parser = parse_template_param)]
    pub params: Vec<(String, Value)>,
    /// The folder for the files.
    #[arg(long, default_value = "mail-preview", value_name = "FOLDER")]
    pub dir: PathBuf,
}

/// Parses `NAME=VALUE`. A value that is not JSON is text.
fn parse_template_param(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected `NAME=VALUE`")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// Writes the preview and prints its path.
///
/// # Errors
/// `mail_template_not_found`, `mail_template_invalid`, `io_error`.
pub fn preview_mail(args: PreviewArgs, config: &Config, out: &mut impl Write) -> Result<()> {
    let mailer = Mailer::new(&config.mailer_options(), Clock::system())?;
    let url = config.base_url();
    let mut vars = Map::new();
    vars.insert(
        "run".into(),
        json!({ "id": PREVIEW_RUN_ID, "url": run_url(&url, PREVIEW_RUN_ID), "pipeline": "example" }),
    );
    vars.insert("links".into(), json!([{ "label": "example", "url": format!("{url}/d/example") }]));
    vars.insert("unsubscribe_url".into(), json!(format!("{url}/u/example")));
    vars.extend(mailer.preview_vars(&args.template)?);
    vars.extend(args.params);
    let content = mailer.render_template(&args.template, None, vars)?;
    writeln!(out, "subject: {}", content.subject)?;
    let files = [("txt", Some(content.text)), ("html", content.html)];
    for (ending, text) in files {
        let path = args.dir.join(format!("{}.{ending}", args.template));
        match text {
            Some(text) => {
                write_file(&path, &text)?;
                writeln!(out, "wrote {}", path.display())?;
            }
            None => writeln!(out, "no {ending}: the template has no `body.html`")?,
        }
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text))
        .map_err(|error| Error::from(error).context(format!("writing `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    fn shown(folder: &Path, template: &str, params: &[&str]) -> Result<String> {
        let config = Config { templates: folder.join("templates"), ..Config::default() };
        let params = params.iter().map(|text| parse_template_param(text).unwrap()).collect();
        let args = PreviewArgs { template: template.into(), params, dir: folder.join("out") };
        let mut out = Vec::new();
        preview_mail(args, &config, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn template_params_are_json_or_text() {
        assert_eq!(parse_template_param("rows=3").unwrap(), ("rows".into(), json!(3)));
        assert_eq!(
            parse_template_param("person={\"name\":\"Ada\"}").unwrap(),
            ("person".into(), json!({ "name": "Ada" }))
        );
        assert_eq!(parse_template_param("since=2026-01-01").unwrap(), ("since".into(), json!("2026-01-01")));
        assert_eq!(parse_template_param("a=b=c").unwrap(), ("a".into(), json!("b=c")));
        assert_eq!(parse_template_param("empty=").unwrap(), ("empty".into(), json!("")));
        assert!(parse_template_param("nothing").is_err() && parse_template_param("=x").is_err());
    }

    #[test]
    fn a_preview_writes_html_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let out = shown(folder.path(), "import_done", &["rejected=0", "file=mine.csv"]).unwrap();
        assert!(out.starts_with("subject: example: 16,872 of 18,771 rows imported\n"), "{out}");
        let read =
            |ending: &str| std::fs::read_to_string(folder.path().join(format!("out/import_done.{ending}"))).unwrap();
        let (text, html) = (read("txt"), read("html"));
        assert!(out.contains("import_done.txt\n") && out.contains("import_done.html\n"), "{out}");
        assert!(text.starts_with("The import of mine.csv is done.\n"), "{text}");
        assert!(text.contains("\nUnsubscribe: http://127.0.0.1:8080/u/example"), "{text}");
        assert!(html.contains("mine.csv") && html.contains("style=\"") && !html.contains("{{"), "{html}");
    }

    #[test]
    fn a_custom_template_is_previewed_with_its_sample() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("templates/email/hello");
        std::fs::create_dir_all(&own).unwrap();
        for (name, text) in [("subject.txt", "Hello"), ("body.txt", "{{ person.name }}: {{ run.url }}")] {
            std::fs::write(own.join(name), text).unwrap();
        }
        let error = shown(folder.path(), "hello", &[]).unwrap_err();
        assert!(error.code() == codes::MAIL_TEMPLATE_INVALID && error.message().contains("`person"), "{error}");
        std::fs::write(own.join("preview.yaml"), "person: { name: Ada }\n").unwrap();
        let out = shown(folder.path(), "hello", &[]).unwrap();
        assert!(out.contains("no html"), "{out}");
        let text = std::fs::read_to_string(folder.path().join("out/hello.txt")).unwrap();
        assert_eq!(text, format!("Ada: http://127.0.0.1:8080/v1/runs/{PREVIEW_RUN_ID}"));
        assert!(!folder.path().join("out/hello.html").exists());
        for name in ["nope", "../hello", "hello/body.txt", ""] {
            assert_eq!(shown(folder.path(), name, &[]).unwrap_err().code(), codes::MAIL_TEMPLATE_NOT_FOUND, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 1);
    }
}
