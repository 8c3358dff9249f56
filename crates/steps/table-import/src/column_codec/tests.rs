//! Tests of the rules of columns.

use serde_json::json;

use super::*;

fn rule_for(column: Value, kind: DbColumnType) -> Result<ColumnCodec, (&'static str, String)> {
    let column = serde_json::from_value(column).unwrap();
    let target = connections::TableColumn {
        name: "x".into(),
        column_type: kind,
        type_name: String::new(),
        not_null: false,
        max_length: None,
    };
    ColumnCodec::new(&column, &target, CodecContext::default())
}

/// Returns the parsed cell as text, or the code of its error.
fn outcome(rule: &ColumnCodec, value: &str) -> String {
    let mut batch = RowBatch::new(1);
    batch.text_buffer.extend_from_slice(value.as_bytes());
    let mut fresh = ScratchText { text: Vec::new(), at: value.len() };
    match rule.parse_cell(value, 0, &mut fresh) {
        Ok(BatchCell::Null) => "null".into(),
        Ok(cell) => {
            batch.text_buffer.append(&mut fresh.text);
            let mut text = String::new();
            batch.render_cell(cell, &mut text);
            text
        }
        Err(fault) => fault.code.name().into(),
    }
}

#[test]
fn column_rules_accept_and_reject_values() {
    let cases = [
        (json!({}), " a b ", "a b"),
        (json!({}), "", "null"),
        (json!({ "trim": false }), " a ", " a "),
        (json!({ "null_values": ["", "NA"] }), "NA", "null"),
        (json!({ "null_values": ["NA"] }), "", ""),
        (json!({ "required": true }), "  ", "value_required"),
        (json!({ "default": "x" }), "", "x"),
        (json!({ "default": 7, "type": "integer" }), "", "7"),
        (json!({ "case": "upper" }), "straße", "STRASSE"),
        (json!({ "type": "integer", "min": 0, "max": 9 }), "9", "9"),
        (json!({ "type": "integer", "min": 0, "max": 9 }), "10", "value_out_of_range"),
        (json!({ "type": "integer" }), "1.5", "value_invalid"),
        (json!({ "type": "decimal", "min": 0 }), "-0.01", "value_out_of_range"),
        (json!({ "type": "number", "min": 1 }), "1,50", "value_invalid"),
        (json!({ "type": "number" }), "+1.50", "1.50"),
        (json!({ "type": "number" }), "1,50", "value_invalid"),
        (json!({ "type": "boolean" }), "Yes", "true"),
        (json!({ "type": "date" }), "2024-02-30", "value_invalid"),
        (json!({ "type": "date", "formats": ["%d.%m.%Y"], "min": "01.01.2000" }), "31.12.1999", "value_out_of_range"),
        (json!({ "type": "date", "formats": ["%d.%m.%Y"], "min": "2000-01-01" }), "31.12.2000", "2000-12-31"),
        (json!({ "type": "datetime" }), "2024-02-29T12:00:00+02:00", "2024-02-29 10:00:00"),
        (json!({ "type": "email", "case": "lower" }), "A@B.Org", "a@b.org"),
        (json!({ "type": "email" }), "a.b.org", "value_invalid"),
        (json!({ "type": "uuid" }), "67E5504410B1426F9247BB680E5FE0C8", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
        (json!({ "type": "enum", "values": ["FR", "DE"], "case": "upper" }), "fr", "FR"),
        (json!({ "type": "enum", "values": ["FR", "DE"] }), "fr", "FR"),
        (json!({ "type": "enum", "values": ["a", "A"] }), "A", "A"),
        (json!({ "type": "enum", "values": ["ab", "AB"] }), "Ab", "value_not_allowed"),
        (json!({ "type": "enum", "values": ["active", "inactive"] }), " ACTIVE ", "active"),
        (json!({ "type": "enum", "values": ["active", "inactive"] }), "aktiv", "value_not_allowed"),
        (json!({ "values": ["a"] }), "A", "value_not_allowed"),
        (json!({ "type": "integer", "map": { "Active": 1, "Inactive": 0, "-": null } }), "ACTIVE", "1"),
        (json!({ "type": "integer", "map": { "Active": 1, "Inactive": 0, "-": null } }), "-", "null"),
        (json!({ "type": "integer", "map": { "Active": 1 } }), "7", "7"),
        (json!({ "type": "integer", "map": { "Active": 1 } }), "aktiv", "value_invalid"),
        (json!({ "type": "integer" }), "1.0", "1"),
        (json!({ "type": "integer", "number": "de" }), "1.234,0", "1234"),
        (json!({ "type": "integer", "number": "en" }), "1,234", "1234"),
        (json!({ "type": "integer" }), "1,234", "value_invalid"),
        (json!({ "type": "decimal", "number": "de" }), "1.234", "1234"),
        (json!({ "type": "decimal", "number": "de" }), "1.23", "value_invalid"),
        (
            json!({ "type": "decimal", "number": { "decimal": ",", "thousands": ".", "currency": true } }),
            "1.234,56 €",
            "1234.56",
        ),
        (json!({ "type": "decimal", "number": { "negative": "brackets", "percent": true } }), "(12%)", "-0.12"),
        (json!({ "type": "decimal", "number": { "locale": "fr", "currency": true } }), "1\u{a0}234,5 €", "1234.5"),
        (json!({ "type": "decimal", "number": "de", "default": 1.5 }), "", "1.5"),
        (json!({ "type": "boolean", "true_values": ["ja", "x"], "false_values": ["nein", "-"] }), "JA", "true"),
        (json!({ "type": "boolean", "true_values": ["ja", "x"], "false_values": ["nein", "-"] }), "-", "false"),
        (
            json!({ "type": "boolean", "true_values": ["ja", "x"], "false_values": ["nein", "-"] }),
            "yes",
            "value_invalid",
        ),
        (json!({ "type": "boolean", "true_values": ["0"] }), "0", "true"),
        (json!({ "type": "boolean", "true_values": ["0"] }), "no", "false"),
        (json!({ "default": "x", "on_blank": "null" }), "", "null"),
        (json!({ "default": "x", "on_blank": null }), "", "null"),
        (json!({ "on_blank": "keep" }), "", "null"),
        (json!({ "type": "date", "formats": ["%m/%d/%Y"] }), "1/5/2024 12:00:00 AM", "2024-01-05"),
        (json!({ "type": "date", "formats": ["%d.%m.%Y"] }), "31.12.24", "value_invalid"),
        (json!({ "type": "date", "formats": ["%d.%m.%Y", "%d.%m.%y"], "year_pivot": 1930 }), "31.12.29", "2029-12-31"),
        (json!({ "type": "date", "formats": ["excel"] }), "45296", "2024-01-05"),
        (json!({ "type": "date", "formats": ["%d.%m.%Y"], "default": "2024-01-05" }), "", "2024-01-05"),
        (json!({ "type": "datetime", "timezone": "Europe/Paris" }), "2024-07-05 10:00", "2024-07-05 08:00:00"),
        (json!({ "type": "json" }), "{\"a\": 1}", "{\"a\": 1}"),
        (json!({ "type": "json" }), "{a: 1}", "value_invalid"),
        (json!({ "min_length": 2, "max_length": 3 }), "é", "value_too_short"),
        (json!({ "min_length": 2, "max_length": 3 }), "éàü", "éàü"),
        (json!({ "min_length": 2, "max_length": 3 }), "éàüö", "value_too_long"),
        (json!({ "pattern": "^[A-Z]+$" }), "Ab", "value_pattern"),
    ];
    for (column, value, expected) in cases {
        let rule = rule_for(column.clone(), DbColumnType::Text).unwrap();
        assert_eq!(outcome(&rule, value), expected, "{column} {value:?}");
    }
}

#[test]
fn bounds_are_compared_by_all_their_digits() {
    let cases = [
        (json!({ "type": "decimal", "max": "1234567890123456.78" }), "1234567890123456.78", "1234567890123456.78"),
        (json!({ "type": "decimal", "max": "1234567890123456.78" }), "1234567890123456.79", "value_out_of_range"),
        (json!({ "type": "decimal", "min": "1234567890123456.78" }), "1234567890123456.77", "value_out_of_range"),
        (json!({ "type": "decimal", "max": 9007199254740992_u64 }), "9007199254740993", "value_out_of_range"),
        (json!({ "type": "decimal", "max": 0.1 }), "0.1", "0.1"),
        (json!({ "type": "decimal", "max": 0.1 }), "0.10000000000000001", "value_out_of_range"),
        (json!({ "type": "decimal", "max": 1e30 }), "1000000000000000000000000000001", "value_out_of_range"),
        (json!({ "type": "integer", "max": 9007199254740992_u64 }), "9007199254740993", "value_out_of_range"),
        (json!({ "type": "integer", "min": "1234567890123456.5" }), "1234567890123456", "value_out_of_range"),
        (json!({ "type": "integer", "min": "-0.5", "max": 0.5 }), "0", "0"),
    ];
    for (column, value, expected) in cases {
        let rule = rule_for(column.clone(), DbColumnType::Text).unwrap();
        assert_eq!(outcome(&rule, value), expected, "{column} {value:?}");
    }
}

#[test]
fn table_column_limits_apply() {
    assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Int2).unwrap(), "32768"), "value_out_of_range");
    assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Float4).unwrap(), "1e39"), "value_out_of_range");
    assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Date).unwrap(), "soon"), "value_invalid");
}

#[test]
fn invalid_rules_are_rejected() {
    let cases = [
        (json!({ "pattern": "(" }), "pattern"),
        (json!({ "type": "enum" }), "type"),
        (json!({ "type": "date", "formats": ["%Q"] }), "formats"),
        (json!({ "type": "integer", "default": "x" }), "default"),
        (json!({ "type": "integer", "min": "x" }), "min"),
        (json!({ "type": "date", "max": "x" }), "max"),
        (json!({ "min": 1 }), "min"),
        (json!({ "number": "de" }), "number"),
        (json!({ "type": "decimal", "number": "xx" }), "number"),
        (json!({ "type": "decimal", "number": { "decimal": ",", "thousands": "," } }), "number"),
        (json!({ "type": "boolean", "true_values": ["x"], "false_values": ["X"] }), "true_values"),
        (json!({ "map": { "a": [] } }), "map"),
        (json!({ "map": { "a": 1, "A": 2 } }), "map"),
        (json!({ "type": "integer", "value": "x" }), "value"),
        (json!({ "type": "datetime", "timezone": "Paris" }), "timezone"),
        (json!({ "type": "date", "year_pivot": 0 }), "year_pivot"),
        (json!({ "type": "date", "formats": ["yyyy-mm-dd"] }), "formats"),
        (json!({ "type": "date", "formats": ["%d.%m"] }), "formats"),
        (json!({ "type": "integer", "min": 10, "max": 1 }), "max"),
        (json!({ "type": "decimal", "min": 1.5, "max": 1 }), "max"),
        (json!({ "type": "decimal", "min": "1234567890123456.78", "max": "1234567890123456.77" }), "max"),
        (json!({ "type": "decimal", "max": "many" }), "max"),
    ];
    for (column, field) in cases {
        assert_eq!(rule_for(column.clone(), DbColumnType::Text).err().unwrap().0, field, "{column}");
    }
}

#[test]
fn constants_ignore_the_file() {
    let rule = rule_for(json!({ "type": "integer", "value": 7 }), DbColumnType::Int8).unwrap();
    let mut fresh = ScratchText::default();
    assert_eq!(rule.make_cell(&mut fresh), Ok(BatchCell::Int(7)));
    let rule = rule_for(json!({ "value": null, "required": true }), DbColumnType::Text).unwrap();
    assert_eq!(rule.make_cell(&mut fresh).unwrap_err().code.name(), "value_required");
}

#[test]
fn decimals_that_sqlite_would_change_are_rejected() {
    let context = CodecContext { rounds_decimals: true, ..CodecContext::default() };
    let codec = |column_type| {
        let name = "x".into();
        let target =
            connections::TableColumn { name, column_type, type_name: String::new(), not_null: false, max_length: None };
        ColumnCodec::new(&serde_json::from_value(json!({ "type": "decimal" })).unwrap(), &target, context).unwrap()
    };
    for (value, kept) in [
        ("12345678901234567.89", false),
        ("9007199254740993.1", false),
        ("0.1234567890123456789", false),
        ("1.10", true),
        ("0.00000000000000000012", true),
        ("9007199254740993", true),
        ("123456789012345.0000", true),
        ("99999999999999999999", false),
    ] {
        let (numeric, text) = (codec(DbColumnType::Numeric), codec(DbColumnType::Text));
        let expected = if kept { value } else { "value_too_precise" };
        assert_eq!(outcome(&numeric, value), expected, "{value}");
        assert_eq!(outcome(&text, value), value);
    }
}

#[test]
fn ambiguous_numbers_name_the_option() {
    let rule = rule_for(json!({ "type": "decimal" }), DbColumnType::Numeric).unwrap();
    let message = |value: &str| rule.parse_cell(value, 0, &mut ScratchText::default()).unwrap_err().message;
    assert!(message("1.234,56").contains("`number: de`"), "{}", message("1.234,56"));
    assert!(!message("NaN").contains("number: de"));
}
