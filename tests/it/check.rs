//! `check` on invalid files, one per kind of error, and on valid files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use afterload::cli::check::{CheckArgs, CheckFormat, run};
use afterload_pipeline::{
    PipelinePlan, StepCatalog, StepKind, Templated, ValidationContext, Validator, compile_definition, pipeline_schema,
};
use afterload_spanned_yaml::{self as yaml, Diagnostic, YamlNode};
use annotate_snippets::Renderer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind with fields of every type, so that these tests do not depend on a real kind.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Load {
    /// Where the data comes from.
    source: serde_json::Value,
    /// Where it goes.
    connection: String,
    /// Which table.
    into: Into,
    /// Rows at a time.
    #[serde(default)]
    chunk: Templated<u32>,
    /// Keep nothing.
    #[serde(default, rename = "dry_run")]
    _dry_run: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Into {
    /// The table.
    table: String,
}

#[derive(Serialize, JsonSchema)]
struct Loaded {
    rows: u64,
    rejected: u64,
    errors_file: Option<String>,
}

impl StepKind for Load {
    fn name(&self) -> &'static str {
        "data.load"
    }

    fn input_schema(&self) -> &schemars::Schema {
        static INPUT: LazyLock<schemars::Schema> = LazyLock::new(|| schemars::schema_for!(Load));
        &INPUT
    }

    fn output_schema(&self) -> &schemars::Schema {
        static OUTPUT: LazyLock<schemars::Schema> = LazyLock::new(|| schemars::schema_for!(Loaded));
        &OUTPUT
    }

    fn example_input(&self) -> &'static str {
        "{ source: x, connection: app, into: { table: t } }"
    }

    fn makes_files(&self) -> bool {
        true
    }

    fn validate(&self, with: &YamlNode, around: &ValidationContext) -> Vec<Diagnostic> {
        match yaml::read::<Load>(with) {
            Err(problems) => problems,
            Ok(load) => {
                let mut check = Validator::new(with, around);
                check.check_connection(&["connection"], &load.connection, true);
                if load.into.table.is_empty() || load.source.is_null() {
                    check.report_invalid(&["into", "table"], "a table needs a name", "");
                }
                if load.chunk.as_literal() == Some(&1) {
                    check.report_invalid(&["chunk"], "one row at a time is slow", "");
                }
                check.finish()
            }
        }
    }
}

/// A kind that accepts any fields.
struct Note;

impl StepKind for Note {
    fn name(&self) -> &'static str {
        "note"
    }

    fn input_schema(&self) -> &schemars::Schema {
        static INPUT: LazyLock<schemars::Schema> = LazyLock::new(|| schemars::json_schema!({ "type": "object" }));
        &INPUT
    }

    fn output_schema(&self) -> &schemars::Schema {
        static OUTPUT: LazyLock<schemars::Schema> =
            LazyLock::new(|| schemars::json_schema!({ "type": "object", "properties": {} }));
        &OUTPUT
    }

    fn example_input(&self) -> &'static str {
        "{}"
    }

    fn validate(&self, _: &YamlNode, _: &ValidationContext) -> Vec<Diagnostic> {
        Vec::new()
    }
}

fn kinds() -> StepCatalog {
    let load = Load {
        source: serde_json::Value::Null,
        connection: String::new(),
        into: Into { table: String::new() },
        chunk: Templated::default(),
        _dry_run: false,
    };
    let wait = afterload::registry::step_kinds()
        .catalog()
        .0
        .into_iter()
        .find(|kind| kind.name() == "wait")
        .expect("the kind `wait`");
    StepCatalog(vec![Arc::new(load), Arc::new(Note), wait])
}

fn around() -> ValidationContext {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    ValidationContext {
        connections: Some(set(&["app", "archive"])),
        read_only: set(&["archive"]),
        templates: Some(set(&["done"])),
        broken_templates: [("broken".to_owned(), "it has no `subject.txt`".to_owned())].into(),
        secrets: Some(set(&["API_TOKEN"])),
        queues: Some(set(&["imports"])),
        artifacts_bucket: Some("artifacts".to_owned()),
        ..ValidationContext::default()
    }
}

fn check(files: Vec<PathBuf>, format: CheckFormat) -> (String, bool) {
    let mut out = Vec::new();
    let args = CheckArgs { files, format, connect: false };
    let code = run(&args, Path::new("tests/it/good"), &kinds(), &around(), &Renderer::plain(), &mut out)
        .expect("memory takes everything");
    let text = String::from_utf8(out).expect("text");
    (text, format!("{code:?}") == format!("{:?}", std::process::ExitCode::SUCCESS))
}

#[test]
fn every_error_is_reported_at_its_span() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir("tests/it/bad").expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 25, "{} files", files.len());
    for file in files {
        let (text, success) = check(vec![file.clone()], CheckFormat::Text);
        assert!(!success, "{} is refused", file.display());
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        insta::assert_snapshot!(format!("bad-{name}"), text);
    }
}

#[test]
fn valid_files_pass_and_are_found_in_the_folder() {
    let (text, success) = check(Vec::new(), CheckFormat::Text);
    assert!(success, "{text}");
    insta::assert_snapshot!("good", text);
}

#[test]
fn errors_are_printed_as_json() {
    let (text, success) = check(vec!["tests/it/bad/four-faults.yaml".into()], CheckFormat::Json);
    assert!(!success);
    insta::assert_snapshot!("four-faults-json", text);
}

#[test]
fn missing_file_is_an_error() {
    let (text, success) = check(vec!["tests/it/bad/nowhere.yaml".into()], CheckFormat::Text);
    assert!(!success && text.contains("[io_error]"), "{text}");
}

#[test]
fn loop_of_pipelines_is_reported_at_its_last_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, from: &str, to: &str| {
        let text = format!(
            "name: {name}\nparams: {{ file: {{ type: file }} }}\ntriggers: [{{ type: s3, bucket: uploads, prefix: {from}/ }}]\n\
             steps:\n  - id: small\n    uses: image.resize\n    \
             with: {{ source: \"${{{{ params.file }}}}\", styles: {{ small: 100x100 }} }}\n    \
             output: {{ bucket: uploads, key: \"{to}/${{{{ file.name }}}}\" }}\n"
        );
        std::fs::write(folder.path().join(format!("{name}.yaml")), text).expect("a file");
    };
    let check = || {
        let mut out = Vec::new();
        let context =
            ValidationContext { public_url: Some("https://after.example".into()), ..ValidationContext::default() };
        let args = CheckArgs { files: Vec::new(), format: CheckFormat::Text, connect: false };
        let kinds = afterload::registry::step_kinds().catalog();
        run(&args, folder.path(), &kinds, &context, &Renderer::plain(), &mut out).expect("memory takes everything");
        String::from_utf8(out).expect("text")
    };
    write("a", "in", "small");
    write("b", "small", "in");
    let text = check();
    assert!(text.starts_with("error[trigger_loop]: what the step writes or sends starts the pipeline again"), "{text}");
    assert!(text.contains("b.yaml:8:37") && text.contains("the loop is `b` -> `a` -> `b`; "), "{text}");
    assert!(text.ends_with("checked 2 files: 1 problem in 1\n"), "{text}");
    write("b", "small", "thumbs");
    assert_eq!(check(), "checked 2 files: no problems\n");
    // A call of the API publishes the event that starts the pipeline.
    let echo = |condition: &str| {
        let text = format!(
            "name: c\ntriggers: [{{ type: event, name: ping }}]\nsteps:\n  - id: echo\n    uses: http.request\n    \
             with: {{ url: https://after.example/v1/events/ping, json: {{}} }}\n{condition}"
        );
        std::fs::write(folder.path().join("c.yaml"), text).expect("a file");
    };
    echo("");
    let text = check();
    assert!(text.contains("c.yaml:6:18") && text.contains("the loop is `c` -> `c`; "), "{text}");
    echo("    if: event.again\n");
    assert_eq!(check(), "checked 3 files: no problems\n");
}

#[test]
fn suffix_is_text_or_a_list_of_texts() {
    let compile = |suffix: &str| {
        let text = format!(
            "name: p\ntriggers: [{{ type: s3, bucket: uploads, suffix: {suffix} }}]\nsteps: [{{ id: one, uses: note }}]\n"
        );
        compile_definition(Some("p.yaml"), &text, &kinds(), &around())
    };
    for (suffix, expected) in [
        ("[]", "`suffix` is an empty list"),
        ("[.jpg, \"${{ params.a }}\"]", "`suffix` cannot hold an expression"),
        ("{ a: b }", "expected text or a list of texts"),
    ] {
        let problems = compile(suffix).expect_err("a fault");
        assert!(problems.iter().any(|problem| problem.message.contains(expected)), "{suffix}: {problems:?}");
    }
    for (suffix, key, expected) in
        [(".jpg", "a.JPG", true), ("[.jpg, .png]", "a.Png", true), ("[.jpg]", "a.png", false)]
    {
        let plan = compile(suffix).expect("valid").plan;
        let trigger = plan.triggers[0].as_s3().expect("an s3 trigger");
        assert_eq!(trigger.matches_object("uploads", key), expected, "{suffix} {key}");
    }
}

#[test]
fn yaml_bombs_are_rejected() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1.. {
        if aliases.len() > 220_000 {
            break;
        }
        let before = vec![format!("*a{}", level - 1); 9].join(", ");
        aliases.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let problems = yaml::parse(&aliases).expect_err("aliases are refused");
    assert!(problems[0].message.contains("anchors are not allowed"), "{}", problems[0].message);
    let nested = "[".repeat(100_000);
    let problems = yaml::parse(&nested).expect_err("nesting is refused");
    assert!(problems[0].message.contains("nested more than 32 deep"), "{}", problems[0].message);
    let large = "a: b\n".repeat(60_000);
    let problems = yaml::parse(&large).expect_err("size is refused");
    assert!(problems[0].message.contains("at most 262144"), "{}", problems[0].message);
}

#[test]
fn schema_binds_fields_to_kinds() {
    insta::assert_json_snapshot!("schema", pipeline_schema(&kinds()));
}

#[test]
fn valid_file_compiles_to_a_plan() {
    let text = std::fs::read_to_string("tests/it/good/contacts.yaml").expect("the file");
    let pipeline = compile_definition(Some("contacts.yaml"), &text, &kinds(), &around()).expect("valid");
    insta::assert_json_snapshot!("plan", pipeline.plan);
    let stored = serde_json::to_string(&pipeline.plan).expect("JSON");
    assert_eq!(serde_json::from_str::<PipelinePlan>(&stored).expect("the same plan"), pipeline.plan);
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let again = compile_definition(None, &windows, &kinds(), &around()).expect("valid");
    assert_eq!(again.plan, pipeline.plan, "line ends and a byte-order mark make no difference");
}

#[test]
fn event_names_are_checked_by_type_of_trigger() {
    let cron = "  - { type: cron, schedule: '@daily', timezone: Europe/Paris }\n";
    let s3 = "  - { type: s3, bucket: uploads }\n";
    let both = format!("{cron}{s3}");
    let any = format!("{cron}  - {{ type: event, name: tick }}\n");
    let cases = [
        (cron, "date", true),
        (cron, "local_time", true),
        (cron, "timezone", true),
        (cron, "time", true),
        (cron, "dat", false),
        (cron, "key", false),
        (s3, "date", false),
        (both.as_str(), "date", true),
        (both.as_str(), "key", true),
        (both.as_str(), "dat", false),
        (any.as_str(), "anything", true),
    ];
    for (triggers, field, known) in cases {
        let text = format!(
            "name: p\ntriggers:\n{triggers}steps:\n  - {{ id: one, uses: note, with: {{ a: \"${{{{ event.{field} }}}}\" }} }}\n"
        );
        let result = compile_definition(None, &text, &kinds(), &around());
        let problems: Vec<_> = result.err().unwrap_or_default().into_iter().map(|problem| problem.message).collect();
        let expected = if known { Vec::new() } else { vec![format!("`event` has no `{field}`")] };
        assert_eq!(problems, expected, "{text}");
    }
    let text = "name: p\ntriggers:\n  - { type: cron, schedule: '@daily', with: { day: \"${{ event.dat }}\" } }\n\
                params: { day: { type: date } }\nsteps: [{ id: one, uses: note }]\n";
    let problems = compile_definition(None, text, &kinds(), &around()).expect_err("no such field");
    assert_eq!(problems[0].message, "`event` has no `dat`");
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean `date`?"));
}

#[test]
fn empty_folder_is_a_failure() {
    let empty = tempfile::tempdir().expect("a folder");
    for format in [CheckFormat::Text, CheckFormat::Json] {
        for folder in [empty.path(), &empty.path().join("missing")] {
            let args = CheckArgs { files: Vec::new(), format, connect: false };
            let code = run(&args, folder, &kinds(), &around(), &Renderer::plain(), &mut Vec::new())
                .expect("memory takes everything");
            assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::FAILURE), "{}", folder.display());
        }
        assert!(!check(vec![empty.path().to_owned()], format).1);
    }
}

#[test]
fn files_of_named_folder_are_checked() {
    let (text, success) = check(vec!["tests/it/good".into()], CheckFormat::Text);
    assert!(success && text == check(Vec::new(), CheckFormat::Text).0, "{text}");
}

#[test]
fn output_for_hostile_files_is_limited() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bomb.yaml");
    std::fs::write(&file, "[".repeat(100_000)).expect("a file");
    let (text, _) = check(vec![file.clone()], CheckFormat::Text);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 160), "{text}");
    let marker = lines[4].find('^').expect("a marker");
    assert!(lines[3].starts_with("1 | ") && lines[3].ends_with("[...") && &lines[3][marker..=marker] == "[", "{text}");
    std::fs::write(&file, format!("a: &a 1\nb: [{}]\n", vec!["*a"; 100].join(", "))).expect("a file");
    let (text, _) = check(vec![file.clone()], CheckFormat::Text);
    assert_eq!(text.matches(":2:").count(), 10, "{text}");
    assert!(text.contains("bomb.yaml: aliases are not allowed: … and 39 more like it"), "{text}");
    let late = text.lines().skip_while(|line| !line.contains(":2:")).nth(3).expect("a caret");
    assert!(late.ends_with('^') || late.ends_with("^^"), "{text}");
    std::fs::write(&file, "name: bomb\nparams: { a: { type: string, pattern: '(' } }\n").expect("a file");
    let (text, _) = check(vec![file], CheckFormat::Text);
    assert!(text.contains("not a regular expression: unclosed group\n"), "{text}");
}

#[test]
fn file_that_is_not_utf8_names_its_first_wrong_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("latin.yaml");
    std::fs::write(&file, b"name: caf\xe9\n").expect("a file");
    let (text, success) = check(vec![file.clone()], CheckFormat::Text);
    assert!(!success && text.contains("the file is not UTF-8; byte 9 is the first that is wrong"), "{text}");
    assert!(text.contains("save it as UTF-8"), "{text}");
    std::fs::write(&file, b"\xff\xfen\0").expect("a file");
    assert!(check(vec![file], CheckFormat::Text).0.contains("UTF-16"));
}

#[test]
fn markers_stand_below_wide_characters() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wide.yaml");
    std::fs::write(&file, "name: wide\n日本語: { 絵: 1 }\nsteps: [{ id: a, uses: note }]\n").expect("a file");
    let (text, _) = check(vec![file], CheckFormat::Text);
    assert!(text.contains("2 | 日本語: { 絵: 1 }\n  | ^^^^^^\n"), "{text}");
}

#[test]
fn output_is_colored_only_on_request_and_never_by_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("red.yaml");
    std::fs::write(&file, "name: red\n\"\u{1b}[31mred\": 1\nsteps: [{ id: a, uses: note }]\n").expect("a file");
    let colored = |renderer: Renderer| {
        let (mut out, args) =
            (Vec::new(), CheckArgs { files: vec![file.clone()], format: CheckFormat::Text, connect: false });
        run(&args, folder.path(), &kinds(), &around(), &renderer, &mut out).expect("memory takes everything");
        let text = String::from_utf8(out).expect("text");
        (text.contains("\u{1b}["), text.contains("\u{1b}[31m"))
    };
    assert_eq!(colored(Renderer::plain()), (false, false));
    assert_eq!(colored(Renderer::styled()), (true, false));
}

#[test]
fn readme_and_tutorial_show_the_output_of_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipeline = std::fs::read_to_string("pipelines/contacts-import.yaml").expect("the file");
    let file = folder.path().join("contacts-import.yaml");
    std::fs::write(&file, pipeline.replace("columns:", "colums:")).expect("a file");
    let kinds = afterload::registry::step_kinds().catalog();
    let (mut out, args) = (Vec::new(), CheckArgs { files: Vec::new(), format: CheckFormat::Text, connect: false });
    run(&args, folder.path(), &kinds, &ValidationContext::default(), &Renderer::plain(), &mut out)
        .expect("memory takes everything");
    let text = String::from_utf8(out).expect("text").replace(&folder.path().display().to_string(), "pipelines");
    for page in ["README.md", "docs/tutorial.md"] {
        let page = std::fs::read_to_string(page).expect("the file");
        assert!(page.contains(&format!("$ afterload check\n{text}```\n")), "{text}");
    }
}
