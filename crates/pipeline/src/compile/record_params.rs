//! Compiles params of type `record`.

use super::super::ast::ParamAst;
use super::super::params::RecordRule;
use super::super::step_kind::ValidationContext;
use super::Diagnostics;
use afterload_core::identifier::TableName;
use afterload_spanned_yaml::YamlNode;

/// Returns the rule as written, with its defaults filled in.
pub fn record_rule(raw: &ParamAst) -> RecordRule {
    RecordRule {
        connection: raw.connection.clone().unwrap_or_default(),
        table: raw.table.clone().unwrap_or_default(),
        key: raw.key.clone().unwrap_or_else(|| "id".into()),
        missing: raw.missing.unwrap_or_default(),
    }
}

/// Returns the compiled rule. Whether the table and its key exist is known only when a row is read.
pub fn compile_record_rule(
    node: &YamlNode,
    raw: &ParamAst,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Option<RecordRule> {
    let before = faults.problems.len();
    let rule = record_rule(raw);
    for field in ["connection", "table"] {
        if node.get(field).is_none() {
            let hint = "such as `{ type: record, connection: app, table: tweets }`";
            faults.report_invalid(node.span, format!("a record needs `{field}`"), hint);
        }
    }
    let at = |field: &str| node.closest_node(&[field]).span;
    // An unreadable field is already reported.
    if let (Some(name), Some(known)) = (&raw.connection, &around.connections)
        && !known.contains(name)
    {
        let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        faults.report_invalid(
            at("connection"),
            format!("unknown connection `{name}`"),
            format!("the configuration knows {names}"),
        );
    }
    let plain = |name: &str| {
        let start = |c: char| c.is_alphabetic() || c == '_';
        name.starts_with(start) && name.len() <= 63 && name.chars().all(|c| start(c) || c.is_ascii_digit())
    };
    if let Some(table) = &raw.table
        && !TableName::parse(table).is_ok_and(|name| name.schema.iter().chain([&name.table]).all(|part| plain(part)))
    {
        let hint = "letters, digits and `_`, such as `tweets` or `crm.tweets`";
        faults.report_invalid(at("table"), format!("`{table}` is not a name for a table"), hint);
    }
    if !plain(&rule.key) || rule.key == "ref" {
        let hint = "letters, digits and `_`, and not `ref`, which is the reference itself";
        faults.report_invalid(at("key"), format!("`{}` is not a name for the column of a key", rule.key), hint);
    }
    (faults.problems.len() == before && raw.connection.is_some() && raw.table.is_some()).then_some(rule)
}
