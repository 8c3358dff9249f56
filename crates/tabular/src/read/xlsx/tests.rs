use std::io::{Seek, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::csv_dialect::CsvLimits;
use super::super::csv_record::CsvRecord;
use super::super::unpack::{UnpackLimits, find_entry, open_zip, unpack_error};
use super::*;

const LIMITS: WorkbookLimits =
    WorkbookLimits { unpack: UnpackLimits { bytes: 1 << 30, ratio: 200 }, shared_text: 1 << 20 };
const RELATIONS: &str = r#"<Relationships><Relationship Id="rId1" Type="http://x/officeDocument" Target="xl/workbook.xml"/></Relationships>"#;
const BOOK_RELATIONS: &str = r#"<Relationships>
    <Relationship Id="r1" Type="http://x/worksheet" Target="worksheets/sheet1.xml"/>
    <Relationship Id="r2" Type="http://x/worksheet" Target="/xl/worksheets/sheet2.xml"/>
    <Relationship Id="r3" Type="http://x/sharedStrings" Target="sharedStrings.xml"/>
    <Relationship Id="r4" Type="http://x/styles" Target="styles.xml"/>
    <Relationship Id="r5" Type="http://x/chartsheet" Target="chartsheets/sheet1.xml"/></Relationships>"#;
const STYLES: &str = r#"<styleSheet><numFmts><numFmt numFmtId="164" formatCode="dd.mm.yyyy hh:mm"/></numFmts>
    <cellStyleXfs><xf numFmtId="14"/></cellStyleXfs>
    <cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"><alignment/></xf></cellXfs></styleSheet>"#;

fn archive(parts: &[(&str, &str)]) -> File {
    let mut writer = ZipWriter::new(tempfile::tempfile().unwrap());
    for (name, text) in parts {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        writer.start_file(*name, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    let mut file = writer.finish().unwrap();
    file.rewind().unwrap();
    file
}

fn book(properties: &str, texts: &str, rows: &str) -> File {
    let book = format!(
        "<workbook xmlns:r=\"x\">{properties}<sheets><sheet name=\"Chart\" sheetId=\"9\" r:id=\"r5\"/>\
         <sheet name=\"Notes\" sheetId=\"1\" state=\"hidden\" r:id=\"r1\"/><sheet name=\"Data &amp; more\" sheetId=\"2\" r:id=\"r2\"/></sheets></workbook>"
    );
    archive(&[
        ("_rels/.rels", RELATIONS),
        ("xl/workbook.xml", &book),
        ("xl/_rels/workbook.xml.rels", BOOK_RELATIONS),
        (
            "xl/worksheets/sheet1.xml",
            "<worksheet><sheetData><row><c t=\"str\"><v>note</v></c></row></sheetData></worksheet>",
        ),
        (
            "xl/worksheets/Sheet2.xml",
            &format!("<x:worksheet xmlns:x=\"y\"><x:sheetData>{rows}</x:sheetData></x:worksheet>"),
        ),
        ("xl/sharedStrings.xml", texts),
        ("xl/styles.xml", STYLES),
    ])
}

type ShownRow = (u64, Vec<String>, Option<&'static str>);

fn read(file: File, choice: &SheetChoice, shape: RowShape) -> Result<Vec<ShownRow>> {
    let mut book = Workbook::open(open_zip(file)?, choice, LIMITS)?;
    let mut rows = book.open_rows(shape)?;
    let (mut record, mut found) = (CsvRecord::default(), Vec::new());
    while rows.read_row(&mut record)? {
        let cells = record.iter_fields().map(|cell| String::from_utf8(cell.to_vec()).unwrap()).collect();
        found.push((record.line, cells, record.fault.map(|fault| fault.code().name())));
    }
    Ok(found)
}

const TEXTS: &str =
    "<sst><si><t>Name</t></si><si><r><t>a &amp; </t></r><r><t>b_x000D_</t></r><rPh><t>spoken</t></rPh></si><si/></sst>";
const ROWS: &str = r#"<row r="2"><c r="A2" t="s"><v>0</v></c><c r="C2" t="inlineStr"><is><t> x </t></is></c></row>
    <row r="3"><c r="A3" s="1"/></row><row r="4"/>
    <row r="7"><c r="A7" t="s"><v>1</v></c><c r="B7"><f>1+1</f><v>2.5</v></c><c r="C7" t="b"><v>1</v></c></row>
    <row><c s="1"><v>60</v></c><c s="2"><v>1.25</v></c><c t="s"><v>2</v></c><c t="str"><f>A1</f><v>formula</v></c></row>
    <row r="9"><c r="B9" t="e"><v>#N/A</v></c><c r="C9" t="d"><v>2024-02-29</v></c></row>"#;

#[test]
fn cells_are_read_by_their_types() {
    let rows = ROWS.replace("<row", "<x:row").replace("</row", "</x:row");
    let shape = RowShape { width: 3, marks: vec!['.', ','], used: Some(vec![0, 2]), ..RowShape::default() };
    let found = read(book("", TEXTS, &rows), &SheetChoice::First, shape).unwrap();
    let expected: [(u64, &[&str]); 4] = [
        (2, &["Name", "", " x "]),
        (7, &["a & b\r", "2,5", "true"]),
        (8, &["1900-02-29", "1900-01-01T06:00:00", "", "formula"]),
        (9, &["", "#N/A", "2024-02-29"]),
    ];
    assert_eq!(found.len(), expected.len());
    for ((line, cells, fault), (expected_line, expected)) in found.iter().zip(expected) {
        assert_eq!((*line, cells.iter().map(String::as_str).collect::<Vec<_>>()), (expected_line, expected.to_vec()));
        assert_eq!(*fault, None, "an error counts only in columns that are used");
    }
    let found =
        read(book("<workbookPr date1904=\"1\"/>", TEXTS, ROWS), &SheetChoice::First, RowShape::default()).unwrap();
    assert_eq!((found[2].1[0].as_str(), found[3].2), ("1904-03-01", Some("cell_error")));
}

#[test]
fn sheets_are_found_by_name_and_number() {
    for choice in [SheetChoice::Number(1), SheetChoice::Name("notes".into())] {
        assert_eq!(read(book("", TEXTS, ROWS), &choice, RowShape::default()).unwrap()[0].1, ["note"]);
    }
    for choice in [SheetChoice::Number(0), SheetChoice::Number(3), SheetChoice::Name("Chart".into())] {
        let error = read(book("", TEXTS, ROWS), &choice, RowShape::default()).unwrap_err();
        assert_eq!(error.code(), codes::SHEET_MISSING);
        assert!(error.hint_text().unwrap().contains("`Notes`, `Data & more`"), "{error}");
    }
}

#[test]
fn damaged_and_hostile_workbooks_are_refused() {
    let long = "x".repeat(5 << 20);
    let deep = "<a>".repeat(100);
    let many = format!("<sst>{}</sst>", "<si><t>0123456789</t></si>".repeat(100_000));
    for (texts, rows, code) in [
        ("<sst/>", "<row><c t=\"s\"><v>5</v></c></row>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", "<row><c><v>1,5</v></c></row>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", "<row><c t=\"str\"><v>&evil;</v></c></row>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", "<row r=\"9\"/><row r=\"3\"/>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", "<row r=\"99999999\"/>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", "<row r=\"1\"><c r=\"ZZZZ1\"><v>1</v></c></row>".to_owned(), codes::WORKBOOK_INVALID),
        ("<sst/>", format!("<row><c t=\"str\"><v>{long}</v></c></row>"), codes::WORKBOOK_INVALID),
        ("<sst/>", deep, codes::WORKBOOK_INVALID),
        (many.as_str(), String::new(), codes::WORKBOOK_TEXTS_TOO_LARGE),
    ] {
        let error = read(book("", texts, &rows), &SheetChoice::First, RowShape::default()).unwrap_err();
        assert_eq!(error.code(), code, "{} {error}", rows.chars().take(60).collect::<String>());
    }
    let mut cut = book("", TEXTS, ROWS);
    let size = cut.seek(std::io::SeekFrom::End(0)).unwrap();
    cut.set_len(size - 30).unwrap();
    assert_eq!(open_zip(cut).err().unwrap().code(), codes::ARCHIVE_INVALID);
    let other = archive(&[("a.csv", "a\n1\n"), ("__MACOSX/a.csv", "x")]);
    let other = open_zip(other).unwrap();
    assert!(!is_workbook(&other));
    assert_eq!(find_entry(&other, None).unwrap(), (0, "a.csv".to_owned()));
    assert_eq!(find_entry(&other, Some("b.csv")).unwrap_err().code(), codes::ARCHIVE_ENTRY_MISSING);
}

#[test]
fn bombs_are_refused_by_size_and_ratio() {
    let zeros = "0".repeat(70 << 20);
    for limits in [UnpackLimits { bytes: 1 << 20, ratio: 10_000 }, UnpackLimits { bytes: 1 << 30, ratio: 100 }] {
        let mut bomb = open_zip(archive(&[("a.csv", &zeros)])).unwrap();
        let mut entry = open_entry(&mut bomb, 0, limits).unwrap();
        let error = std::io::copy(&mut entry, &mut std::io::sink()).unwrap_err();
        assert_eq!(unpack_error(&error).code(), codes::ARCHIVE_TOO_LARGE);
    }
}

#[test]
fn cells_beyond_the_limits_reject_their_row() {
    let runs = format!("<c t=\"inlineStr\"><is>{}</is></c>", "<r><t>0123456789</t></r>".repeat(1000));
    let rows =
        format!("<row><c><v>1</v></c><c><v>2</v></c><c><v>3</v></c></row><row>{runs}</row><row><c><v>4</v></c></row>");
    let limits = CsvLimits { field_bytes: 100, record_bytes: 400, columns: 2 };
    let found = read(book("", TEXTS, &rows), &SheetChoice::First, RowShape { limits, ..RowShape::default() }).unwrap();
    let faults = found.iter().map(|(.., fault)| *fault).collect::<Vec<_>>();
    assert_eq!(faults, [Some("csv_too_many_columns"), Some("csv_field_too_large"), None]);
}
