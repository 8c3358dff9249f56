//! Tests of the parser.

use afterload_core::work::assert_linear;
use proptest::prelude::*;

use super::*;

const COMMA: CsvDialect = CsvDialect::new(b',', Some(b'"'));

/// Reads all records, with the input split into pieces of these sizes.
fn read(input: &[u8], sizes: &[usize]) -> Vec<CsvRecord> {
    read_dialect(COMMA, input, sizes)
}

fn read_dialect(dialect: CsvDialect, input: &[u8], sizes: &[usize]) -> Vec<CsvRecord> {
    read_with(CsvParser::new(dialect, 0, 1), input, sizes)
}

fn read_with(mut parser: CsvParser, input: &[u8], sizes: &[usize]) -> Vec<CsvRecord> {
    let (mut record, mut records) = (CsvRecord::default(), Vec::new());
    let (mut rest, mut sizes) = (input, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let (mut piece, after) = rest.split_at(size);
        while parser.read_record(&mut piece, &mut record) {
            records.push(record.clone());
        }
        rest = after;
    }
    while parser.finish(&mut record) {
        records.push(record.clone());
    }
    records
}

fn texts(records: &[CsvRecord]) -> Vec<Vec<String>> {
    let fields = |record: &CsvRecord| record.iter_fields().map(|field| String::from_utf8_lossy(field).into()).collect();
    records.iter().map(fields).collect()
}

#[test]
fn hostile_files_take_linear_work() {
    for shape in [
        "\"",
        "\"\"",
        "\"a,",
        "\"a\n",
        "a,\"b\n",
        "a\"b,\n",
        "\"a\"b\n",
        "a,",
        "\n",
        "\r",
        "\"a\",\"b\"\n",
        "\"\n\",x",
        "a,\"\n\n",
        "\"\"x\n",
        "a\",\"\n",
        "\\\"\n",
        " \"a\n",
    ] {
        let lenient = CsvDialect { escape: Some(b'\\'), lenient_quotes: true, ..COMMA };
        assert_linear(
            shape,
            |count| shape.repeat(count),
            |text| drop(read_dialect(lenient, text.as_bytes(), &[64 << 10])),
        );
        assert_linear(shape, |count| shape.repeat(count), |text| drop(read(text.as_bytes(), &[64 << 10])));
        assert_linear(shape, |count| format!("\"{}\"", shape.repeat(count)), |text| drop(read(text.as_bytes(), &[])));
    }
}

#[test]
fn all_line_ends_are_parsed_and_counted() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("a,b{end}{end}\"1{end}x\",2{end}3,{end},");
        let records = read(text.as_bytes(), &[]);
        assert_eq!(texts(&records), [vec!["a", "b"], vec![&format!("1{end}x"), "2"], vec!["3", ""], vec!["", ""]]);
        assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3, 5, 6], "{end:?}");
        assert_eq!(records[0].end as usize, 3 + end.len());
        assert_eq!(records[3].end as usize, text.len());
    }
}

#[test]
fn unclosed_quote_costs_its_own_line_only() {
    let unclosed = |line| Some(RecordFault::UnclosedQuote { line });
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("a,b{end}x,\"open{end}1,2{end}\"y\",3{end}4,5");
        for sizes in [&[][..], &[1], &[3, 7]] {
            let records = read(text.as_bytes(), sizes);
            assert_eq!(
                texts(&records),
                [vec!["a", "b"], vec!["x", "\"open"], vec!["1", "2"], vec!["y", "3"], vec!["4", "5"]]
            );
            assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{end:?}");
            let faults = records.iter().map(|record| record.fault).collect::<Vec<_>>();
            assert_eq!(faults, [None, unclosed(2), None, None, None]);
        }
    }
    let mut input = b"a,b\n1,2\nx,\"open\n".to_vec();
    input.extend(format!("1,{}\n", "x".repeat(1000)).repeat(9_000).into_bytes());
    let records = read(&input, &[]);
    assert_eq!((records.len(), records[2].line, records[2].fault), (9_003, 3, unclosed(3)));
    // Every line opens a quote that the next one seems to close.
    let records = read(b"\"a\n\"b\n\"c", &[]);
    assert_eq!(records.iter().map(|record| record.fault).collect::<Vec<_>>(), [unclosed(1), unclosed(2), unclosed(3)]);
}

#[test]
fn oversized_records_are_returned_with_their_fault() {
    let faults = |input: &[u8], sizes: &[usize]| {
        let parser =
            CsvParser::new(COMMA, 0, 1).with_limits(CsvLimits { field_bytes: 10, record_bytes: 25, columns: 4 });
        read_with(parser, input, sizes).iter().map(|record| record.fault).collect::<Vec<_>>()
    };
    let field = |line| Some(RecordFault::FieldTooLarge { line, limit: 10 });
    for sizes in [&[][..], &[1], &[5]] {
        assert_eq!(faults(b"0123456789,\"0123456789\"\n", sizes), [None]);
        assert_eq!(faults(b"a\n0123456789x,b\nc\n", sizes), [None, field(2), None]);
        assert_eq!(faults(b"a\n\"01234\n56789x\",b\nc\n", sizes), [None, field(2), None]);
        let record = Some(RecordFault::RecordTooLarge { limit: 25 });
        assert_eq!(faults(b"0123456789,0123456789,0123456789\nc\n", sizes), [record, None]);
        assert_eq!(
            faults(b"1,2,3,4\n1,2,3,4,5,6\nc\n", sizes),
            [None, Some(RecordFault::TooManyColumns { limit: 4 }), None]
        );
    }
    let long = "x".repeat(CsvLimits::DEFAULT_FIELD_BYTES);
    let records = read(format!("{long},y\n{long}z,y\n").as_bytes(), &[64 << 10]);
    assert_eq!((records[0].fault, records[1].ends.len()), (None, 2));
    assert!(matches!(records[1].fault, Some(RecordFault::FieldTooLarge { .. })));
}

#[test]
fn quotes_are_read_as_the_dialect_says() {
    let strict = COMMA;
    let lenient = CsvDialect { lenient_quotes: true, ..COMMA };
    let escaped = CsvDialect { escape: Some(b'\\'), ..COMMA };
    for (dialect, text, expected) in [
        (lenient, "\"He said \"hi\" to me\",1\n", vec![vec!["He said \"hi\" to me", "1"]]),
        (lenient, "\"He said \"hi\"\",1\n2", vec![vec!["He said \"hi\"", "1"], vec!["2"]]),
        (lenient, "\"He said \"\"hi\"\"\",1\n", vec![vec!["He said \"hi\"", "1"]]),
        (lenient, "\"5\" screen\" ,1", vec![vec!["5\" screen", "1"]]),
        (escaped, "\"Text in \\\"Quotes\\\"\",1\n", vec![vec!["Text in \"Quotes\"", "1"]]),
        (escaped, "\"a\\\",b\",\"C:\\dir\\\\\"\n", vec![vec!["a\",b", "C:\\dir\\"]]),
        (strict, "a, \"Doe, John\"\nb,  \"Y\" , c\n", vec![vec!["a", "Doe, John"], vec!["b", "Y", " c"]]),
        (strict, " , a \n", vec![vec![" ", " a "]]),
    ] {
        for sizes in [&[][..], &[1], &[4]] {
            let records = read_dialect(dialect, text.as_bytes(), sizes);
            assert_eq!(texts(&records), expected, "{text:?}");
            assert!(records.iter().all(|record| record.fault.is_none()), "{text:?}");
        }
    }
}

#[test]
fn empty_lines_are_counted() {
    let mut parser = CsvParser::new(COMMA, 0, 1);
    let (mut record, mut input) = (CsvRecord::default(), &b"\r\n\na\r\n\r\n\r\nb\n\n"[..]);
    let mut blank = Vec::new();
    while parser.read_record(&mut input, &mut record) {
        blank.push(parser.take_blank_lines());
    }
    assert_eq!((blank, parser.take_blank_lines()), (vec![2, 2], 1));
}

#[test]
fn text_after_closing_quote_sets_stray_quote() {
    let records = read(b"\"a\"b,c\n\"d\",e\n", &[]);
    assert_eq!(texts(&records), [["ab", "c"], ["d", "e"]]);
    assert_eq!([records[0].fault, records[1].fault], [Some(RecordFault::StrayQuote), None]);
}

proptest! {
    #[test]
    fn csv_crate_output_is_parsed_back(rows in prop::collection::vec(prop::collection::vec("[a-c,\"\r\n é]{0,6}", 3), 0..20),
                                            sizes in prop::collection::vec(1_usize..9, 1..9)) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let input = writer.into_inner().unwrap();
        let records = read(&input, &sizes);
        prop_assert_eq!(texts(&records), rows);
    }

    #[test]
    fn chunk_sizes_do_not_matter(input in "[ab,\" \r\n]{0,60}", sizes in prop::collection::vec(1_usize..5, 1..9)) {
        for dialect in [COMMA, CsvDialect { escape: Some(b'a'), lenient_quotes: true, ..COMMA }] {
            let (whole, cut) = (read_dialect(dialect, input.as_bytes(), &[]), read_dialect(dialect, input.as_bytes(), &sizes));
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn records_without_faults_equal_those_of_the_csv_crate(input in "[ab,\"\r\n]{0,60}") {
        let records = read(input.as_bytes(), &[]);
        if records.iter().all(|record| matches!(record.fault, None | Some(RecordFault::StrayQuote))) {
            let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input.as_bytes());
            let theirs = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect::<Vec<_>>());
            prop_assert_eq!(texts(&records), theirs.collect::<Vec<_>>());
        }
    }

    #[test]
    fn parsing_resumes_after_any_record(input in "[ab,\"\r\n]{0,60}") {
        let records = read(input.as_bytes(), &[]);
        for (index, record) in records.iter().enumerate() {
            let rest = &input.as_bytes()[record.end as usize..];
            let next_line = input[..record.end as usize].replace("\r\n", "\n").matches(['\r', '\n']).count() as u64 + 1;
            let mut parser = CsvParser::new(COMMA, record.end, next_line);
            let (mut next, mut piece) = (CsvRecord::default(), rest);
            let found = parser.read_record(&mut piece, &mut next) || parser.finish(&mut next);
            prop_assert_eq!(found.then_some(&next), records.get(index + 1));
        }
    }
}
