//! `sql_file`: the text of a file next to the pipelines becomes part of the definition.

use std::path::Path;

use afterload::registry::step_kinds;
use afterload_pipeline::{Pipeline, StepCatalog, ValidationContext, compile_definition, compile_with_sql_files};
use afterload_spanned_yaml::{Diagnostic, SourceSpan};

fn kinds() -> StepCatalog {
    step_kinds().catalog()
}

fn loaded(folder: &Path, text: &str) -> Result<(Pipeline, String), Vec<Diagnostic>> {
    compile_with_sql_files(None, text, folder, &kinds(), &ValidationContext::default())
}

#[test]
fn sql_file_text_becomes_part_of_the_definition() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("sql")).expect("a folder");
    let sql = "-- \"é\"\nSELECT 1 AS one,\r\n\t':x' AS \\\nFROM t WHERE a = :a;\n".replace("AS \\", "AS \"b\\\"");
    std::fs::write(folder.path().join("sql/one.sql"), format!("\u{feff}{sql}")).expect("a file");
    let text = "\u{feff}name: p\nsteps:\n  - id: r\n    uses: report.query\n    \
                with: { sql_file: sql/one.sql, bind: { a: 1 }, format: csv }\n";
    let (pipeline, whole) = loaded(folder.path(), text).expect("valid");
    assert_eq!(pipeline.plan.sections.main[0].with["sql"], serde_json::Value::from(sql.as_str()));
    let again = compile_definition(None, &whole, &kinds(), &ValidationContext::default()).expect("valid");
    assert_eq!(again.plan, pipeline.plan, "what is stored needs no file");
    std::fs::write(folder.path().join("sql/one.sql"), "SELECT :a AS two").expect("a file");
    let (changed, _) = loaded(folder.path(), text).expect("valid");
    assert_ne!(changed.plan.digest, pipeline.plan.digest);
}

#[test]
fn each_sheet_of_a_workbook_may_name_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("one.sql"), "SELECT 1 AS one").expect("a file");
    std::fs::write(folder.path().join("two.sql"), "SELECT 2 AS two").expect("a file");
    let text = "name: p\nsteps:\n  - id: r\n    uses: report.query\n    with:\n      format: xlsx\n      sheets:\n        \
                - { name: A, sql_file: one.sql }\n        - name: B\n          sql_file: two.sql\n";
    let (pipeline, _) = loaded(folder.path(), text).expect("valid");
    let sheets = &pipeline.plan.sections.main[0].with["sheets"];
    let queries = [&sheets[0]["sql"], &sheets[1]["sql"]].map(|sql| sql.as_str().unwrap_or_default());
    assert_eq!(queries, ["SELECT 1 AS one", "SELECT 2 AS two"]);
    let missing = text.replace("two.sql", "no.sql");
    let problems = loaded(folder.path(), &missing).expect_err("no such file");
    assert_eq!(problems.iter().map(|problem| problem.span.line).collect::<Vec<_>>(), [10]);
}

#[test]
fn sql_file_that_is_not_utf8_is_refused_with_its_first_wrong_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("one.sql"), b"SELECT 'caf\xe9' AS one").expect("a file");
    let text = "name: p\nsteps:\n  - { id: r, uses: report.query, with: { sql_file: one.sql, format: csv } }\n";
    let problems = loaded(folder.path(), text).expect_err("not UTF-8");
    let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
    assert_eq!(problem.message, "`one.sql`: the file is not UTF-8; byte 11 is the first that is wrong");
    assert_eq!(problem.hint.as_deref(), Some("save it as UTF-8"));
}

#[test]
fn errors_keep_their_original_span() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("good.sql"), "SELECT\n1 AS é").expect("a file");
    std::fs::write(folder.path().join("bad.sql"), "DELETE FROM t").expect("a file");
    let step =
        |id: &str, rest: &str| format!("  - {{ id: {id}, uses: report.query, with: {{ {rest}, format: csv }} }}\n");
    let text = format!(
        "name: p\nsteps:\n{}{}{}{}{}",
        step("a", "sql_file: good.sql, oops: 1"),
        step("b", "sql_file: bad.sql"),
        step("c", "sql_file: ../bad.sql"),
        step("d", "sql_file: none.sql"),
        step("e", "sql_file: good.sql, max_rows: 0"),
    );
    let problems = loaded(folder.path(), &text).expect_err("five problems");
    let told: Vec<_> = problems
        .iter()
        .map(|problem| {
            let SourceSpan { offset, len, .. } = problem.span;
            (problem.span.line, problem.code.name(), &text[offset..offset + len])
        })
        .collect();
    let expected = [
        (3, "definition_invalid", "oops"),
        (4, "report_sql_refused", "bad.sql"),
        (5, "definition_invalid", "../bad.sql"),
        (6, "definition_invalid", "none.sql"),
        (7, "definition_invalid", "0"),
    ];
    assert_eq!(told, expected);
    for problem in &problems {
        let line = text.lines().nth(problem.span.line - 1).expect("a line");
        let at: String = line.chars().skip(problem.span.col - 1).collect();
        let SourceSpan { offset, len, .. } = problem.span;
        assert!(at.starts_with(&text[offset..offset + len]), "{problem:?}");
    }
}
