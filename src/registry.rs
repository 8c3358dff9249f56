//! The step kinds of this binary, and the services that each of them uses.

use std::sync::Arc;

use afterload_basic_steps::email_send::EmailSend;
use afterload_basic_steps::file_check::FileCheck;
use afterload_basic_steps::geo_lookup::{GeoLookup, GeoLookupDeps};
use afterload_basic_steps::http_request::HttpRequest;
use afterload_basic_steps::sql::{SqlBatch, SqlExecute};
use afterload_basic_steps::wait::WaitStep;
use afterload_egress::EgressClient;
use afterload_geoip::GeoLocator;
use afterload_image_resize::{ImagePool, ImageResize};
use afterload_mailer::Mailer;
use afterload_notify_fanout::{NotifyFanout, NotifyFanoutDeps};
use afterload_pipeline::{StepCatalog, StepKind};
use afterload_report_query::ReportQuery;
use afterload_step_api::{RegisteredStep, Step, describe, register};
use afterload_table_import::{CsvImport, TableImport};
use afterload_target_db::Connections;

/// The services that step kinds may use.
#[derive(Clone)]
pub struct Services {
    /// The target databases.
    pub connections: Connections,
    /// The mailer.
    pub mailer: Mailer,
    /// The client for outgoing calls.
    pub http: EgressClient,
    /// Geo lookups.
    pub geo: GeoLocator,
    /// The memory and CPU budget for images.
    pub images: ImagePool,
}

/// A list of step kinds.
#[derive(Clone, Default)]
pub struct StepRegistry(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    kind: Arc<dyn StepKind>,
    register: Arc<dyn Fn(&Services) -> RegisteredStep + Send + Sync>,
}

impl StepRegistry {
    /// Adds a kind; `deps` selects what it needs from the services.
    #[must_use]
    pub fn with<S: Step>(mut self, deps: fn(&Services) -> S::Deps) -> Self {
        let entry = Entry { kind: describe::<S>(), register: Arc::new(move |services| register::<S>(deps(services))) };
        self.0.push(entry);
        self
    }

    /// The catalog of the kinds. It opens no connections.
    pub fn catalog(&self) -> StepCatalog {
        StepCatalog(self.0.iter().map(|entry| entry.kind.clone()).collect())
    }

    /// The kinds with their services.
    pub fn registered(&self, services: &Services) -> Vec<RegisteredStep> {
        self.0.iter().map(|entry| (entry.register)(services)).collect()
    }
}

/// The step kinds of this binary. A new kind is one line here.
pub fn step_kinds() -> StepRegistry {
    StepRegistry::default()
        .with::<CsvImport>(|services| services.connections.clone())
        .with::<EmailSend>(|services| services.mailer.clone())
        .with::<FileCheck>(|_| ())
        .with::<GeoLookup>(|services| GeoLookupDeps {
            geo: services.geo.clone(),
            connections: services.connections.clone(),
        })
        .with::<HttpRequest>(|services| services.http.clone())
        .with::<ImageResize>(|services| services.images.clone())
        .with::<NotifyFanout>(|services| NotifyFanoutDeps {
            connections: services.connections.clone(),
            mailer: services.mailer.clone(),
            http: services.http.clone(),
        })
        .with::<ReportQuery>(|services| services.connections.clone())
        .with::<SqlBatch>(|services| services.connections.clone())
        .with::<SqlExecute>(|services| services.connections.clone())
        .with::<TableImport>(|services| services.connections.clone())
        .with::<WaitStep>(|_| ())
}

#[cfg(test)]
mod tests {
    use afterload_pipeline::ValidationContext;
    use afterload_spanned_yaml::{self as yaml, Diagnostic};

    use super::*;

    fn found<S: Step>(text: &str) -> Vec<String> {
        let around = ValidationContext {
            connections: Some(["app".to_owned()].into()),
            templates: Some(["import_done".to_owned()].into()),
            broken_templates: [("broken".to_owned(), "it has no `subject.txt`".to_owned())].into(),
            ..ValidationContext::default()
        };
        let with = yaml::parse(text).expect("valid YAML");
        let place = |problem: &Diagnostic| format!("{}:{} {}", problem.span.line, problem.span.col, problem.message);
        describe::<S>().validate(&with, &around).iter().map(place).collect()
    }

    #[test]
    fn an_unreadable_field_hides_no_other_problem() {
        let text = "source: abc\nconnection: nowhere\ninto: { table: t, on_conflict: { keys: [id, a, c], action: skip } }\n\
                    columns:\n  a: { type: enm, values: [x] }\n  b: { type: enum }\n  c: 5\ntolerate: 120%\nchunk: 0\nencoding: klingon\n";
        insta::assert_snapshot!(found::<CsvImport>(text).join("\n"), @r"
        1:9 expected a file such as `${{ … }}`, found the text `abc`
        2:13 unknown connection `nowhere`
        3:40 key `id` is not imported
        5:14 unknown value `enm`
        6:14 a column of type `enum` needs `values`
        7:6 expected a map, found the number 5
        8:11 expected a share such as `5%` or `0.5%`, at most `100%`, found the text `120%`
        9:8 `chunk` must be from 1 to 100000
        10:11 unknown encoding `klingon`
        ");
        let text = "to: [nobody, ok@example.com]\ntemplate: welcom\nvars: [1]\nlinks: { file: abc }\nfrom: me\n";
        insta::assert_snapshot!(found::<EmailSend>(text).join("\n"), @r"
        1:6 `nobody` is not an e-mail address: it has no `@`
        2:11 unknown mail template `welcom`
        3:7 expected a map, found a list
        4:16 expected a file such as `${{ … }}`, found the text `abc`
        5:7 `me` is not an e-mail address: it has no `@`
        ");
    }

    #[test]
    fn image_styles_are_checked_at_their_positions() {
        let text = "source: '${{ params.file }}'\nquality: 0\nbackground: blau\nanimated: keep\nstyles:\n  small: 100x100##\n  \
                    Big: 100\n  odd: { geometry: 5x, format: gif }\n  more: { geometry: '!', quality: 101, backgroud: '#fff' }\n  \
                    none: { format: webp }\n  list: [1]\n  later: '${{ params.size }}'\n";
        insta::assert_snapshot!(found::<ImageResize>(text).join("\n"), @r"
        2:10 `quality` must be from 1 to 100
        3:13 `blau` is not a colour
        4:11 `animated` is not supported yet
        6:10 `100x100##` is not a geometry: `#` stands there twice
        7:8 `Big` is not a name for a style
        8:32 unknown value `gif`
        9:21 `!` is not a geometry: it names neither a width nor a height
        9:35 `quality` must be from 1 to 100
        9:40 unknown field `backgroud`
        10:9 missing field `geometry`
        11:9 expected a geometry such as `800x600>`, or a map with `geometry`, found a list
        ");
        assert_eq!(found::<ImageResize>("source: '${{ params.file }}'\nstyles: {}\n").len(), 1);
    }

    #[test]
    fn consequences_of_an_unreadable_field_are_not_reported() {
        assert_eq!(
            found::<CsvImport>("source: '${{ params.f }}'\ninto: { table: t }\n"),
            ["1:1 missing field `columns`"]
        );
        let faults = found::<CsvImport>("source: '${{ params.f }}'\ninto: 3\ncolumns: { a: 5 }\nconnection: [1]\n");
        assert_eq!(faults.len(), 3, "{faults:?}");
        for text in ["to: a@example.com\ntemplate: [1]\n", "to: a@example.com\nsubject: [1]\nbody: x\n"] {
            assert_eq!(found::<EmailSend>(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn report_options_are_checked_at_their_positions() {
        let text =
            "sql: SELECT 1 AS a\nformat: csv\ndelimiter: ab\ntimezone: Middle/Earth\ndecimal: \".\"\nmax_groups: 5\n";
        insta::assert_snapshot!(found::<ReportQuery>(text).join("\n"), @r"
        3:12 `ab` is not a delimiter
        4:11 there is no time zone `Middle/Earth`
        6:13 `max_groups` needs `group_by`
        ");
        let text = "sql: SELECT 1 AS a\nformat: jsonl\nbom: true\nnull: x\ngroup_by: a\nmax_groups: 0\ntimezone: Europe/Paris\n";
        insta::assert_snapshot!(found::<ReportQuery>(text).join("\n"), @r"
        3:6 `bom` is an option of `csv`
        4:7 `null` is an option of `csv`
        6:13 `max_groups` must be from 1 to 10000
        ");
        let text = "sql: SELECT 1 AS a\nformat: xlsx\nsheet: a/b\ncolumns: { a: { width: 300, total: sum } }\n";
        insta::assert_snapshot!(found::<ReportQuery>(text).join("\n"), @r"
        3:8 `a/b` cannot be the name of a sheet
        4:24 `width` must be from 1 to 255
        ");
        let text = "sql: SELECT 1 AS a\nformat: xlsx\nsheets:\n  - { name: 'a:b', sql: DELETE FROM t }\n  - { name: b }\n  \
                    - { name: c, sql: 'SELECT :x AS a', bind: { y: 1 }, columns: { a: { width: 0 } } }\n";
        insta::assert_snapshot!(found::<ReportQuery>(text).join("\n"), @r"
        1:6 a report with `sheets` has no `sql` of its own
        4:13 `a:b` cannot be the name of a sheet
        4:25 the SQL cannot be a report: it is not a `SELECT`
        5:5 a sheet needs `sql` or `sql_file`
        6:21 nothing fills `:x`
        6:50 the SQL has no `:y`
        6:78 `width` must be from 1 to 255
        ");
        let text = "sql: SELECT 1 AS a\nformat: csv\nautofilter: true\ncolumns: { a: { total: sum } }\n";
        insta::assert_snapshot!(found::<ReportQuery>(text).join("\n"), @r"
        3:13 `autofilter` is an option of `xlsx`
        4:24 `total` is an option of `xlsx`
        ");
        let text = "sql: SELECT 1 AS a\nformat: csv\ndelimiter: ;\nnull: a;b\ndecimal: ','\nline_ending: crlf\n";
        assert_eq!(
            found::<ReportQuery>(text),
            ["4:7 `null` has a character that needs quotes, or more than 100 bytes"]
        );
    }

    /// Editors strike through deprecated fields.
    #[test]
    fn fields_that_are_not_supported_yet_are_deprecated() {
        fn check_fields(schema: &serde_json::Value, found: &mut usize) {
            match schema {
                serde_json::Value::Object(fields) => {
                    let text = fields.get("description").and_then(serde_json::Value::as_str).unwrap_or_default();
                    let is_deprecated = fields.get("deprecated") == Some(&true.into());
                    assert_eq!(text.ends_with("Not supported yet."), is_deprecated, "{text}");
                    *found += usize::from(is_deprecated);
                    fields.values().for_each(|field| check_fields(field, found));
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| check_fields(item, found)),
                _ => {}
            }
        }
        let mut found = 0;
        check_fields(&afterload_pipeline::pipeline_schema(&step_kinds().catalog()), &mut found);
        assert_eq!(found, 9);
    }

    #[test]
    fn a_broken_template_is_a_problem_of_its_pipelines() {
        let faults = found::<EmailSend>("to: a@example.com\ntemplate: broken\n");
        assert_eq!(faults, ["2:11 the mail template `broken` cannot be used: it has no `subject.txt`"]);
    }
}
