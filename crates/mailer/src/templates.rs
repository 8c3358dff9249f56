//! Mail templates: a folder `NAME/` with `subject.txt`, `body.txt` and `body.html`. One of the bodies may be missing.
//! An optional `preview.yaml` holds the variables of the preview.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

use super::content::MailContent;
use super::template_source::{BUILTIN_TEMPLATES, find_wrong_encoding, load_source, unreadable_error};
use super::{inline_css, plain_text, to_single_line};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::units::group_digits;
use afterload_pipeline::expr::{add_exact_numbers, rewrite_template};
use afterload_spanned_yaml as yaml;

/// The instruction limit of the template engine per mail; a loop over a few thousand rows needs about ten thousand.
const MAIL_TEMPLATE_FUEL: u64 = 1_000_000;

/// The templates of a folder and the built-in ones.
pub(super) struct MailTemplates {
    folder: PathBuf,
}

impl MailTemplates {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// All templates by name; an unusable one has its error.
    pub(super) fn list_templates(&self) -> BTreeMap<String, Option<String>> {
        let shipped =
            BUILTIN_TEMPLATES.iter().filter_map(|(path, _)| path.split_once('/')).map(|(name, _)| name.to_owned());
        let own = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let own = own.filter(|entry| entry.path().is_dir());
        let all = shipped.chain(own.filter_map(|entry| entry.file_name().into_string().ok()));
        // Each file of a built-in template names it.
        let names: BTreeSet<String> = all.collect();
        let env = self.build_environment();
        let checked = names.into_iter().map(|name| (self.find_template_error(&env, &name), name));
        checked.map(|(fault, name)| (name, fault)).collect()
    }

    fn find_template_error(&self, env: &Environment<'_>, name: &str) -> Option<String> {
        let mut files = Vec::new();
        for file in ["subject.txt", "body.txt", "body.html"] {
            let path = format!("{name}/{file}");
            match env.get_template(&path) {
                Ok(_) => files.push(file),
                Err(error) if error.kind() == ErrorKind::TemplateNotFound => {}
                Err(error) => {
                    let error = self.invalid_error(&path, &error);
                    let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
                    return Some(format!("{}{hint}", error.message()));
                }
            }
        }
        match files.as_slice() {
            ["subject.txt"] => Some("it has neither `body.txt` nor `body.html`".into()),
            ["subject.txt", ..] => None,
            _ => Some("it has no `subject.txt`".into()),
        }
    }

    /// Renders a template. It reads the files each time, so that a changed template takes effect with the next mail. A
    /// mail costs far more than reading three small files.
    pub(super) fn render_template(
        &self,
        name: &str,
        subject: Option<String>,
        mut vars: Map<String, Value>,
    ) -> Result<MailContent> {
        let has = |file: &str| match load_source(&self.folder, &format!("{name}/{file}")) {
            Ok(found) => Ok(found.is_some()),
            Err(error) => Err(unreadable_error(error, format!("reading `{file}` of mail template `{name}`"))),
        };
        if name.contains('/') || !has("subject.txt")? {
            return Err(self.not_found_error(name));
        }
        let env = self.build_environment();
        let subject = match subject {
            Some(subject) => to_single_line(&subject),
            None => to_single_line(&self.render_file(&env, &format!("{name}/subject.txt"), &vars)?),
        };
        vars.insert("subject".into(), subject.clone().into());
        let html = match has("body.html")? {
            true => Some(self.render_html(&env, &format!("{name}/body.html"), &vars)?),
            false => None,
        };
        let text = match (has("body.txt")?, &html) {
            (true, _) => self.render_file(&env, &format!("{name}/body.txt"), &vars)?,
            (false, Some(html)) => plain_text::html_to_text(html),
            (false, None) => {
                let message = format!("mail template `{name}` has neither `body.txt` nor `body.html`");
                return Err(Error::new(codes::MAIL_TEMPLATE_INVALID, message));
            }
        };
        Ok(MailContent { subject, text, html })
    }

    fn build_environment(&self) -> Environment<'static> {
        let mut env = Environment::new();
        let folder = self.folder.clone();
        env.set_loader(move |path| {
            let source = load_source(&folder, path).map_err(|error| {
                minijinja::Error::new(ErrorKind::InvalidOperation, "the file cannot be read").with_source(error)
            })?;
            Ok(source.map(|source| rewrite_template(&source)))
        });
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_fuel(Some(MAIL_TEMPLATE_FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("the default delimiters differ from each other"));
        add_exact_numbers(&mut env);
        env.add_filter("number", number_filter);
        // Keeps the positions of errors, at little cost.
        env.set_debug(true);
        env
    }

    fn render_file(&self, env: &Environment<'_>, path: &str, vars: &Map<String, Value>) -> Result<String> {
        let filled = env.get_template(path).and_then(|template| template.render(Serde(vars)));
        filled.map_err(|error| self.invalid_error(path, &error))
    }

    /// Renders an HTML template and inlines its styles.
    fn render_html(&self, env: &Environment<'_>, path: &str, vars: &Map<String, Value>) -> Result<String> {
        let html = self.render_file(env, path, vars)?;
        inline_css::inline_styles(&html).map_err(|error| {
            let message = format!("{}: the styles cannot be inlined: {error}", self.folder.join(path).display());
            Error::new(codes::MAIL_TEMPLATE_INVALID, message)
        })
    }

    /// The variables in the `preview.yaml` of a template; empty without one.
    pub(super) fn preview_vars(&self, name: &str) -> Result<Map<String, Value>> {
        let path = format!("{name}/preview.yaml");
        let file = self.folder.join(&path);
        let text = load_source(&self.folder, &path)
            .map_err(|error| unreadable_error(error, format!("reading `{}`", file.display())))?;
        let invalid = |line: usize, why: &str| {
            Error::new(codes::MAIL_TEMPLATE_INVALID, format!("{}:{line}: {why}", file.display()))
                .with_hint("write names with values, such as `rows: 10`")
        };
        let sample = yaml::parse(&text.unwrap_or_default()).map_err(|problems| match problems.first() {
            Some(problem) => invalid(problem.span.line, &problem.message),
            None => invalid(1, "it cannot be read"),
        })?;
        match sample.to_json() {
            Value::Object(vars) => Ok(vars),
            Value::Null => Ok(Map::new()),
            _ => Err(invalid(sample.span.line, "it holds no names")),
        }
    }

    fn not_found_error(&self, name: &str) -> Error {
        let names = self.list_templates().keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Error::new(codes::MAIL_TEMPLATE_NOT_FOUND, format!("there is no mail template `{name}`")).with_hint(format!(
            "there are {names}; a template is a folder of `{}` with a `subject.txt`",
            self.folder.display()
        ))
    }

    fn invalid_error(&self, path: &str, error: &minijinja::Error) -> Error {
        if let Some(fault) = find_wrong_encoding(error) {
            return fault.to_error();
        }
        // The innermost error names the file with the fault, not the file that includes it.
        let mut innermost = error;
        while let Some(inner) = std::error::Error::source(innermost).and_then(|inner| inner.downcast_ref()) {
            innermost = inner;
        }
        let file = self.folder.join(innermost.name().unwrap_or(path));
        let place = format!("{}:{}", file.display(), innermost.line().unwrap_or(1));
        let fault = match innermost.detail() {
            Some(detail) => format!("{}: {detail}", innermost.kind()),
            None => innermost.kind().to_string(),
        };
        let culprit = innermost.template_source().zip(innermost.range()).and_then(|(source, range)| source.get(range));
        match (innermost.kind(), culprit) {
            // An operator does not know the name of what it was given; its call is no text of the user.
            (ErrorKind::UndefinedError, Some(culprit)) if !culprit.contains("__") => Error::new(
                codes::MAIL_TEMPLATE_INVALID,
                format!("{place}: `{}` is not defined", to_single_line(culprit)),
            )
            .with_hint("give it under `vars:`, or ask with `is defined` first"),
            _ => Error::new(codes::MAIL_TEMPLATE_INVALID, format!("{place}: {fault}")),
        }
    }
}

/// The filter `number`: formats 18771 as `18,771` and leaves other values unchanged.
fn number_filter(value: minijinja::Value) -> minijinja::Value {
    let Ok(number) = i64::try_from(value.clone()) else { return value };
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", group_digits(number.unsigned_abs())).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::json;

    use super::*;

    struct Own(tempfile::TempDir);

    impl Own {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(folder)
        }

        fn render(&self, name: &str, vars: Value) -> Result<MailContent> {
            let Value::Object(vars) = vars else { panic!("vars are a map") };
            MailTemplates::new(self.0.path().into()).render_template(name, None, vars)
        }
    }

    #[test]
    fn html_bodies_are_escaped_and_text_bodies_are_not() {
        let own =
            Own::new(&[("t/subject.txt", "Hi {{ n }}"), ("t/body.txt", "{{ n }}"), ("t/body.html", "<p>{{ n }}</p>")]);
        let content = own.render("t", json!({ "n": "<b>&\"\r\nBcc: x" })).unwrap();
        assert_eq!(content.subject, "Hi <b>&\" Bcc: x");
        assert_eq!(content.text, "<b>&\"\r\nBcc: x");
        let html = content.html.unwrap();
        assert!(html.contains("<p>&lt;b&gt;&amp;\"\nBcc: x</p>"), "{html}");
    }

    #[test]
    fn a_missing_text_body_is_derived_from_html() {
        let own = Own::new(&[("t/subject.txt", "S"), ("t/body.html", "<p>{{ n }}</p>")]);
        assert_eq!(own.render("t", json!({ "n": "a < b" })).unwrap().text, "a < b\n");
    }

    #[test]
    fn layout_styles_are_inlined_into_templates() {
        let own = Own::new(&[
            ("frame.html", "<head><style>.loud { color: red }</style></head>{% block content %}{% endblock %}"),
            ("t/subject.txt", "S"),
            ("t/body.html", "{% extends 'frame.html' %}{% block content %}<p class=loud>{{ n }}</p>{% endblock %}"),
        ]);
        let content = own.render("t", json!({ "n": "</p><style>*{display:none}</style>" })).unwrap();
        let html = content.html.unwrap();
        assert!(html.contains("style=\"color: red") && !html.contains("<style"), "{html}");
        assert_eq!(content.text, "</p><style>*{display:none}</style>\n");
    }

    #[test]
    fn builtin_templates_preview_and_escape_and_fit_small_and_dark_screens() {
        let templates = MailTemplates::new("/nowhere".into());
        // Values that a user may enter as a name or a file name.
        let evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>\r\nBcc: victim@example.com\0";
        for name in templates.list_templates().into_keys() {
            let mut vars = templates.preview_vars(&name).unwrap();
            assert!(!vars.is_empty(), "{name}");
            vars.insert("run".into(), json!({ "id": "01RUN", "url": "http://x/run", "pipeline": evil }));
            vars.insert("links".into(), json!([{ "label": evil, "url": "http://x/d/1?a=1&b=2" }]));
            for text in ["file", "since", "until"] {
                if vars.contains_key(text) {
                    vars.insert(text.into(), evil.into());
                }
            }
            if vars.contains_key("error") {
                vars.insert("error".into(), json!({ "code": "c", "message": evil }));
            }
            let content = templates.render_template(&name, None, vars).unwrap();
            assert!(!content.subject.contains(['\r', '\n', '\0']), "{}", content.subject);
            let html = content.html.unwrap();
            for tag in ["<script", "<img"] {
                assert!(!html.contains(tag), "{name}: {html}");
            }
            assert!(html.contains("&lt;script&gt;"), "{name} shows what was typed: {html}");
            assert!(html.contains("href=\"http://x/d/1?a=1&amp;b=2\""), "{name}: {html}");
            let (head, body) = html.split_once("</style>").unwrap();
            for part in ["width=device-width", "prefers-color-scheme: dark", "max-width: 560px"] {
                assert!(head.contains(part), "{name} lacks {part}: {html}");
            }
            assert!(body.contains("padding: 28px 24px") && !head.contains("padding: 28px 24px"), "{name}: {html}");
            assert!(html.len() < 20_000, "{name} is short enough to be shown whole");
            assert!(content.text.contains("http://x/d/1?a=1&b=2"), "{name}: {}", content.text);
        }
    }

    #[test]
    fn a_preview_uses_the_sample_beside_the_bodies() {
        let own = Own::new(&[
            ("good/preview.yaml", "rows: 3\nperson: { name: Ada }\n"),
            ("empty/preview.yaml", ""),
            ("list/preview.yaml", "- 1\n"),
            ("broken/preview.yaml", "a: 1\nb: [\n"),
        ]);
        let templates = MailTemplates::new(own.0.path().into());
        assert_eq!(json!(templates.preview_vars("good").unwrap()), json!({ "rows": 3, "person": { "name": "Ada" } }));
        for name in ["empty", "none", "../good", ""] {
            assert!(templates.preview_vars(name).unwrap().is_empty(), "{name}");
        }
        for (name, place) in [("list", "list/preview.yaml:1: "), ("broken", "broken/preview.yaml:")] {
            let error = templates.preview_vars(name).unwrap_err();
            assert!(error.code() == codes::MAIL_TEMPLATE_INVALID && error.message().contains(place), "{error}");
        }
    }

    #[test]
    fn template_errors_name_file_and_line() {
        let faults = [
            ("a\n\n{{ nope.x }}", "body.txt:3: `nope.x` is not defined"),
            ("a\n{% if %}", "body.txt:2: "),
            ("{% for a in range(100000) %}{% for b in range(100000) %}.{% endfor %}{% endfor %}", "body.txt:1: "),
            ("{% include 'part.txt' %}", "part.txt:2: `gone` is not defined"),
            ("{% include '../secret.txt' %}", "body.txt:1: "),
        ];
        for (body, place) in faults {
            let own = Own::new(&[("t/subject.txt", "S"), ("t/body.txt", body), ("part.txt", "\n{{ gone }}")]);
            let error = own.render("t", json!({})).unwrap_err();
            assert_eq!((error.code().name(), error.is_transient()), ("mail_template_invalid", false));
            assert!(error.message().contains(place), "{error}");
        }
    }

    #[test]
    fn file_that_is_not_utf8_is_refused_with_its_first_wrong_byte() {
        let include = "{% include 'part.txt' %}";
        for (wrong, body) in [("t/subject.txt", "B"), ("t/body.txt", "B"), ("part.txt", include)] {
            let own = Own::new(&[("t/subject.txt", "S"), ("t/body.txt", body), ("part.txt", "P")]);
            fs::write(own.0.path().join(wrong), b"caf\xe9").unwrap();
            let error = own.render("t", json!({})).unwrap_err();
            assert_eq!((error.code().name(), error.is_transient()), ("mail_template_invalid", false));
            let place = format!("{wrong}: the file is not UTF-8; byte 3 is the first that is wrong");
            assert!(error.message().ends_with(&place), "{error}");
            assert_eq!(error.hint_text(), Some("save it as UTF-8"));
        }
        let own = Own::new(&[("t/subject.txt", "S"), ("t/body.txt", "B")]);
        fs::write(own.0.path().join("t/body.txt"), b"\xff\xfeB\0").unwrap();
        let faults = MailTemplates::new(own.0.path().into()).list_templates();
        let fault = faults["t"].as_deref().unwrap();
        assert!(fault.contains("byte 0 is the first that is wrong") && fault.contains("UTF-16"), "{fault}");
    }

    #[test]
    fn only_templates_are_found() {
        let own = Own::new(&[("t/subject.txt", "S"), ("half/body.txt", "x")]);
        assert_eq!(own.render("t", json!({})).unwrap_err().code(), codes::MAIL_TEMPLATE_INVALID);
        for name in ["nope", "half", "", ".", "..", "../t", "t/../t", "/etc", "import_done/subject.txt"] {
            let error = own.render(name, json!({})).unwrap_err();
            assert_eq!(error.code(), codes::MAIL_TEMPLATE_NOT_FOUND, "{name}");
        }
        let names = MailTemplates::new(own.0.path().into()).list_templates();
        assert_eq!(names.into_keys().collect::<Vec<_>>(), ["half", "import_done", "run_failed", "sales_report", "t"]);
    }

    #[test]
    fn a_folder_replaces_a_builtin_template_completely() {
        let own = Own::new(&[("run_failed/subject.txt", "Mine"), ("run_failed/body.txt", "own words")]);
        let content = own.render("run_failed", json!({})).unwrap();
        assert_eq!((content.subject.as_str(), content.html), ("Mine", None));
    }

    #[test]
    fn builtin_templates_match_the_repository() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/email");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path())),
                false => files.push(path),
            }
        }
        let files = files.iter().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned());
        let shipped = BUILTIN_TEMPLATES.iter().map(|(path, _)| (*path).to_owned());
        assert_eq!(files.collect::<BTreeSet<_>>(), shipped.collect::<BTreeSet<_>>());
    }

    #[test]
    fn decimals_are_printed_and_calculated_exactly() {
        let body =
            "{% if price > 5 and price < 100 %}{{ price }} * 2 = {{ price * 2 }}{% endif %};\n{{ prices | sum }}";
        let own = Own::new(&[("t/subject.txt", "S"), ("t/body.txt", body)]);
        let content = own.render("t", json!({ "price": "19.90", "prices": ["19.90", 0.1] })).unwrap();
        assert_eq!(content.text, "19.90 * 2 = 39.80;\n20.00");
        let error = own.render("t", json!({ "price": "19.90", "prices": 1 })).unwrap_err();
        assert!(error.message().contains("body.txt:2: "), "{error}");
        let error = own.render("t", json!({ "prices": [] })).unwrap_err();
        assert!(error.message().contains("body.txt:1: ") && !error.message().contains("__"), "{error}");
    }

    #[test]
    fn number_filter_groups_digits() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (18771, "18,771"), (-1234567, "-1,234,567")] {
            assert_eq!(number_filter(value.into()).to_string(), text);
        }
        assert_eq!(number_filter("abc".into()).to_string(), "abc");
    }

    #[test]
    fn unusable_templates_are_found_before_rendering() {
        let own = Own::new(&[
            ("good/subject.txt", "Hello {{ name }}"),
            ("good/body.html", "{% if a %}b{% endif %}"),
            ("open/subject.txt", "Hello"),
            ("open/body.txt", "a\n{% if b %}"),
            ("silent/body.txt", "no subject"),
            ("empty/subject.txt", "no body"),
        ]);
        let all = MailTemplates::new(own.0.path().into()).list_templates();
        let fault = |name: &str| all[name].as_deref().unwrap_or_default();
        assert_eq!((fault("good"), fault("import_done"), fault("run_failed")), ("", "", ""));
        assert!(fault("open").contains("open/body.txt:2: syntax error"), "{}", fault("open"));
        assert_eq!(fault("silent"), "it has no `subject.txt`");
        assert_eq!(fault("empty"), "it has neither `body.txt` nor `body.html`");
    }
}
