//! Real files through detection, reader and column rules, without a database.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::CsvImport;
use crate::column_codec::{CodecContext, ColumnCodec};
use crate::columns::ImportColumn;
use crate::csv_format::ColumnSource;
use afterload_target_db::{DbColumnType, TableColumn};

/// What became of a file.
struct Imported {
    /// The accepted rows, with `|` between the cells and `-` for null.
    rows: Vec<String>,
    /// The lines of the error file.
    rejects: Vec<String>,
    faults: Vec<String>,
    blank: u64,
    cut: bool,
    layout: CsvFormat,
}

fn contacts(extra: Value) -> Value {
    let columns = json!({
        "email": { "match": ["Email", "E-mail"] },
        "name": { "match": ["Name", "Full name"] },
    });
    let mut with = json!({ "source": "${{ x }}", "into": { "table": "t" }, "columns": columns });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    with
}

fn import(with: Value, bytes: &[u8], piece: usize) -> Result<Imported> {
    let spec: CsvImport = serde_json::from_value(with).unwrap();
    let layout = CsvFormat::from_sample(bytes, true, &spec)?;
    let columns = spec.columns.iter().map(|(name, column)| (name.as_str(), column)).collect::<Vec<_>>();
    let sources = layout.map_columns(&columns)?;
    let context = CodecContext { number: spec.number.as_ref(), ..CodecContext::default() };
    let bind = |((name, column), source): (&(&str, &ImportColumn), &ColumnSource)| {
        let name = (*name).to_owned();
        let column_type = DbColumnType::Text;
        let target = TableColumn { name, column_type, type_name: String::new(), not_null: false, max_length: None };
        let codec = ColumnCodec::new(column, &target, context).map_err(|(_, message)| message).unwrap();
        let field = if let ColumnSource::Field(field) = source { Some(*field) } else { None };
        BoundColumn { codec, field }
    };
    let rules = columns.iter().zip(&sources).map(bind).collect::<Vec<_>>();
    let (decode, from) = Utf8Decoder::new(layout.encoding, layout.offset);
    let format = RejectFormat {
        dialect: layout.dialect,
        run: "r1".into(),
        header: layout.header.clone(),
        write_bom: false,
        marked_bytes: !layout.encoding.encoding.is_utf8(),
    };
    let reader = ChunkReader {
        layout: layout.clone(),
        rules,
        format,
        chunk: spec.chunk,
        max_rows: spec.max_rows.unwrap_or(u64::MAX),
        skip_footer: spec.skip_footer as usize,
        row: 0,
        decode,
        parser: RecordParser::new(&layout, Vec::new(), layout.offset, layout.line),
        from: (layout.offset, layout.line),
        read: from,
        size: bytes.len() as u64,
        packed: false,
    };
    let pieces = bytes[from as usize..].chunks(piece).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let (feed, fed) = mpsc::channel(2);
    feed.try_send(Ok(Some(pieces))).unwrap();
    feed.try_send(Ok(None)).unwrap();
    let (sender, mut chunks) = mpsc::channel(10_000);
    let (_, spare) = std_mpsc::channel();
    reader.run(ReaderInput::Plain(fed), &sender, &spare);
    let mut imported =
        Imported { rows: Vec::new(), rejects: Vec::new(), faults: Vec::new(), blank: 0, cut: false, layout };
    while let Ok(chunk) = chunks.try_recv() {
        let chunk = chunk?;
        for row in 0..chunk.batch.row_count() {
            let show = |cell: &afterload_target_db::BatchCell| {
                let mut text = String::new();
                chunk.batch.render_cell(*cell, &mut text);
                if *cell == afterload_target_db::BatchCell::Null { "-".to_owned() } else { text }
            };
            imported.rows.push(chunk.batch.row_cells(row).iter().map(show).collect::<Vec<_>>().join("|"));
        }
        imported.faults.extend(chunk.rejects.iter().flat_map(|reject| reject.fault_kinds.clone()));
        imported.rejects.extend(chunk.rejects.iter().map(|reject| reject.text.clone()));
        imported.blank += chunk.blank;
        imported.cut |= chunk.cut;
    }
    Ok(imported)
}

/// Imports a file in one piece and in small pieces, and checks rows and faults.
fn check(name: &str, with: Value, bytes: &[u8], rows: &[&str], faults: &[&str]) -> Imported {
    let imported = import(with.clone(), bytes, 7).unwrap();
    assert_eq!(imported.rows, rows, "{name}: {:?}", imported.rejects);
    assert_eq!(imported.faults, faults, "{name}");
    let whole = import(with, bytes, usize::MAX).unwrap();
    assert_eq!(
        (&whole.rows, &whole.rejects, whole.blank),
        (&imported.rows, &imported.rejects, imported.blank),
        "{name}"
    );
    whole
}

#[test]
fn stray_bytes_reject_their_row_only() {
    let good = (0..50).map(|row| format!("u{row}@x.org,Jürgen Müller {row}\n")).collect::<String>();
    let bytes = [b"Email,Name\n", good.as_bytes(), b"z@x.org,J\xfcrgen\n"].concat();
    let imported = import(contacts(json!({})), &bytes, 100).unwrap();
    assert_eq!((imported.rows.len(), &imported.rows[49]), (50, &"u49@x.org|Jürgen Müller 49".to_owned()));
    assert!(
        imported.rejects[0].starts_with("z@x.org,J\\xFCrgen,r1,51,52,,csv_invalid_text,"),
        "{:?}",
        imported.rejects
    );
    let detected = imported.layout.to_detected();
    assert_eq!((detected.encoding.as_str(), detected.confidence), ("utf-8", crate::Confidence::Medium));

    let mut utf16 = "\u{feff}Email\tName\r\na@x.de\tZoë\r\nb@x.de\tŁu".encode_utf16().collect::<Vec<_>>();
    utf16.extend([0xd83d, u16::from(b'k')]);
    let bytes = utf16.into_iter().flat_map(u16::to_le_bytes).chain([0x41]).collect::<Vec<_>>();
    let imported = check("utf16", contacts(json!({})), &bytes, &["a@x.de|Zoë"], &["csv_invalid_text"]);
    assert!(imported.rejects[0].starts_with("b@x.de\tŁu\\x3D\\xD8k\\x41\t"), "{:?}", imported.rejects);

    check("lost", contacts(json!({})), "Email,Name\na,b\u{fffd}\nc,d\n".as_bytes(), &["c|d"], &["csv_invalid_text"]);
    for (encoding, bytes) in [("cp437", &b"Email,Name\na,Z\x81rich\n"[..]), ("mac_roman", b"Email,Name\na,Z\x9frich\n")]
    {
        check(encoding, contacts(json!({ "encoding": encoding })), bytes, &["a|Zürich"], &[]);
    }
}

/// The name, the fields, the file, the rows, and the faults.
type ShapeCase<'a> = (&'a str, Value, &'a [u8], &'a [&'a str], &'a [&'a str]);

#[test]
fn shapes_of_real_files_are_read() {
    let none = json!({});
    let cases: [ShapeCase<'_>; 16] = [
        ("sep_line", none.clone(), b"sep=;\r\nEmail;Name\r\na;Z,1\r\n", &["a|Z,1"], &[]),
        ("sep_line_skipped", json!({ "skip_rows": 1 }), b"sep=|\nEmail|Name\na|Z\n", &["a|Z"], &[]),
        ("blank_mid", none.clone(), b"Email,Name\na,Z\n\n  \n,\n , \nb,Y\n,,,\n\n", &["a|Z", "b|Y"], &[]),
        ("blank_kept", json!({ "blank_rows": "keep" }), b"Email,Name\na,Z\n,\n", &["a|Z", "-|-"], &[]),
        (
            "preamble",
            none.clone(),
            b"\"Konto:\";\"1234567890 / Internet-Account\";\n\n\"Von:\";\"01.01.2012\";\n\"Saldo:\";\"123,45\";\n\n\"Email\";\"Name\"\n\"a\";\"Z\"\n",
            &["a|Z"],
            &[],
        ),
        ("footer", json!({ "skip_footer": 2 }), b"Email,Name\na,Z\nb,Y\n,Total\n***END OF FILE***\n\n", &["a|Z", "b|Y"], &[]),
        ("footer_only", json!({ "skip_footer": 5 }), b"Email,Name\n,Total\n", &[], &[]),
        ("ragged", none.clone(), b"Name,Email,Fax\nZ,a,2\nY\nX,c,\n", &["a|Z", "c|X"], &["csv_ragged"]),
        ("padded", json!({ "short_rows": "pad" }), b"Name,Email,Fax\nZ,a,2\nY\n", &["a|Z", "-|Y"], &[]),
        (
            "unclosed",
            none.clone(),
            b"Email,Name\na,\"Oops\nb,Y\nc,X\n\"d\",W\ne,V\n",
            &["b|Y", "c|X", "d|W", "e|V"],
            &["csv_unclosed_quote"],
        ),
        ("strict", none.clone(), b"Email,Name\n\"a\",\"say \"hi\" to\"\nb,Y\n", &["b|Y"], &["csv_stray_quote"]),
        (
            "lenient",
            json!({ "quotes": "lenient" }),
            b"Email,Name\n\"a\",\"He said \"hi\"\"\nb,Y\n",
            &["a|He said \"hi\"", "b|Y"],
            &[],
        ),
        (
            "backslash",
            json!({ "escape": "\\" }),
            b"Email,Name\n\"a\",\"in \\\"Quotes\\\"\"\nb,Y\n",
            &["a|in \"Quotes\"", "b|Y"],
            &[],
        ),
        ("space", none.clone(), b"Email, Name\na, \"Doe, John\"\nb, \"Y\"\n", &["a|Doe, John", "b|Y"], &[]),
        ("guards", none.clone(), b"Email,Name\n'@bob,'- todo\n'tis,''x\n", &["@bob|- todo", "'tis|'x"], &[]),
        ("kept", json!({ "formula_guards": "keep" }), b"Email,Name\n'@bob,x\n", &["'@bob|x"], &[]),
    ];
    for (name, extra, bytes, rows, faults) in cases {
        check(name, contacts(extra), bytes, rows, faults);
    }
    let blank =
        check("blank", contacts(json!({})), b"Email,Name\na,Z\n\n  \n,\n , \nb,Y\n,,,\n\n", &["a|Z", "b|Y"], &[]);
    assert_eq!(blank.blank, 6);
    let unclosed = import(contacts(json!({})), b"Email,Name\na,\"Oops\nb,Y\n", 100).unwrap();
    assert!(unclosed.rejects[0].contains("the quote that opens on line 2 is never closed"), "{:?}", unclosed.rejects);
    let preamble = import(contacts(json!({})), b"Export of today\nEmail,Name\na,Z\n", 100).unwrap();
    assert_eq!((preamble.layout.header_line, preamble.rows), (Some(2), vec!["a|Z".to_owned()]));
    // A first row with some of the names is a header that lacks the others, whatever follows.
    let error = import(contacts(json!({})), b"Email,Nam\na,Z\nEmail,Name\nb,Y\n", 100).err().unwrap();
    assert_eq!(error.code(), codes::CSV_HEADER_MISSING);
}

#[test]
fn large_fields_and_wide_files_are_read() {
    let long = "x".repeat(70_000);
    let file = format!("Email,Name\na,Z\nb,{long}\nc,Y\n");
    let imported = import(contacts(json!({})), file.as_bytes(), 8192).unwrap();
    assert_eq!((imported.rows.len(), imported.rows[1].len()), (3, 70_002));
    let imported = import(contacts(json!({ "max_field_size": "64kb" })), file.as_bytes(), 8192).unwrap();
    assert_eq!(
        (imported.rows, imported.faults),
        (vec!["a|Z".to_owned(), "c|Y".into()], vec!["csv_field_too_large".to_owned()])
    );
    let names = (0..2000).map(|column| format!(",c{column}")).collect::<String>();
    let wide = format!("Email,Name{names}\na,Z{}\nb,Y{}\n", ",1".repeat(2000), ",1".repeat(3000));
    let imported = import(contacts(json!({})), wide.as_bytes(), 8192).unwrap();
    assert_eq!((imported.rows, imported.faults), (vec!["a|Z".to_owned()], vec!["csv_ragged".to_owned()]));
    let error = import(contacts(json!({ "max_columns": 1024 })), wide.as_bytes(), 8192).err().unwrap();
    assert!(error.code() == codes::CSV_TOO_MANY_COLUMNS && error.message().contains("`max_columns`"), "{error}");
}

#[test]
fn headers_match_by_normal_form() {
    for header in [
        "Email\u{a0},\u{200b}Name",
        "EMAIL,full\nname",
        "\"Email\",\"Full\r\nname\"",
        "ｅｍａｉｌ,Name ",
        "E-mail,\u{feff}name",
    ] {
        let header = if header.contains('\n') && !header.contains('"') {
            header.replace("full\nname", "\"full\nname\"")
        } else {
            header.into()
        };
        check(&header, contacts(json!({})), format!("{header}\na,Z\n").as_bytes(), &["a|Z"], &[]);
    }
    let columns = json!({ "prenom": { "match": "Prénom" }, "email": { "match": "Email" } });
    check("nfd", contacts(json!({ "columns": columns })), "Pre\u{301}nom,Email\nZoe,a\n".as_bytes(), &["a|Zoe"], &[]);
    let columns = json!({ "datum": { "match": "Datum" }, "betrag": { "match": "Betrag, EUR" } });
    let amounts = check(
        "amb_delim",
        contacts(json!({ "columns": columns })),
        b"Datum;Betrag, EUR\n01.01.2024;1,50\n02.01.2024;-2,75\n",
        &["1,50|01.01.2024", "-2,75|02.01.2024"],
        &[],
    );
    assert_eq!(amounts.layout.to_detected().confidence, crate::Confidence::High);
    let error = import(contacts(json!({})), b"E-Mial,Full nam\na,Z\n", 100).err().unwrap();
    let details = error.details().unwrap();
    assert_eq!((&details["near"]["email"], &details["near"]["name"]), (&json!(["E-Mial"]), &json!(["Full nam"])));
    assert!(error.to_string().contains("near: `E-Mial`"), "{error}");
}

#[test]
fn other_kinds_of_files_are_named() {
    for (bytes, kind) in [
        (&b"<html><body><table><tr><th>Email</th></tr></table></body></html>"[..], "HTML"),
        (b"[{\"Email\":\"a@example.org\",\"Name\":\"Z\"}]", "JSON"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
    ] {
        let error = import(contacts(json!({})), bytes, 100).err().unwrap();
        assert!(error.code() == codes::CSV_NOT_TEXT && error.message().contains(kind), "{error}");
    }
}

#[test]
fn all_faults_of_a_row_are_listed() {
    let columns = json!({ "e": { "type": "email" }, "n": { "type": "integer" } });
    let with = contacts(json!({ "columns": columns }));
    let imported = check("two_faults", with, b"e,n\nbad,xx\n", &[], &["e.value_invalid", "n.value_invalid"]);
    let line = &imported.rejects[0];
    assert!(line.starts_with("bad,xx,r1,1,2,e; n,value_invalid; value_invalid,"), "{line}");
    assert!(line.contains("`bad` is not an e-mail address; `xx` is not a whole number"), "{line}");
}

#[test]
fn only_further_rows_cut_a_file() {
    let with = |max: u64| contacts(json!({ "columns": { "n": {} }, "max_rows": max, "chunk": 2 }));
    for (max, rows, cut) in
        [(2, &["1", "2"][..], true), (4, &["1", "2", "3", "4"], false), (9, &["1", "2", "3", "4"], false)]
    {
        let imported = check("maxrows", with(max), b"n\n1\n2\n3\n4\n\n", rows, &[]);
        assert_eq!(imported.cut, cut, "{max}");
    }
}

#[test]
fn constants_win_over_the_file() {
    let columns = json!({ "email": {}, "tenant": { "value": "t1" } });
    let with = contacts(json!({ "columns": columns }));
    check("const_inject", with.clone(), b"email,tenant\na,other\n", &["a|t1"], &[]);
    check("const", with, b"email\na\n", &["a|t1"], &[]);
}

#[test]
fn notes_of_error_files_are_no_rows() {
    let added = "_run,_row,_line,_error_column,_error_code,_error_message";
    let file = format!(
        "Email,Name,{added}\na,Z,r1,1,2,,value_invalid,x\n,,r1,9,10,,csv_errors_omitted,3 more\n,,r1,9,10,,csv_rows_cut,x\n"
    );
    check("notes", contacts(json!({ "blank_rows": "keep" })), file.as_bytes(), &["a|Z"], &[]);
}

#[test]
fn unedited_bytes_stay_rejected() {
    let added = "_run,_row,_line,_error_column,_error_code,_error_message";
    let row = |name: &str, code: &str| format!("Email,Name,{added}\na,{name},r1,1,2,,{code},x\n");
    check("shown", contacts(json!({})), row("J\\xFCrgen", "csv_invalid_text").as_bytes(), &[], &["csv_invalid_text"]);
    check("edited", contacts(json!({})), row("Jürgen", "csv_invalid_text").as_bytes(), &["a|Jürgen"], &[]);
    check("path", contacts(json!({})), row("C:\\xFC", "value_invalid").as_bytes(), &["a|C:\\xFC"], &[]);
}
