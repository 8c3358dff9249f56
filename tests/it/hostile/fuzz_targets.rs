//! The fuzz targets with a few inputs each, so that they compile and hold. `scripts/fuzz.sh` runs them for longer.

use proptest::prelude::*;

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn geometries_hold(size in any::<[u8; 4]>(), text in "[0-9]{0,5}[x%@]?[0-9.]{0,5}[%@]?[#!^<>]{0,2}") {
        targets::apply_geometry(&[size.as_slice(), text.as_bytes()].concat());
    }

    #[test]
    fn csv_reads_the_same_in_pieces(size in any::<u8>(), text in "(\u{feff})?[a-cé,;\"\r\n\t\0]{0,80}") {
        targets::read_csv(&[[size].as_slice(), text.as_bytes()].concat());
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        targets::read_csv(&[[size, 0xff, 0xfe].as_slice(), &wide].concat());
    }

    #[test]
    fn expressions_hold(text in "(\\$\\{\\{ )?[a-z0-9._|()\\[\\]\"'+*/%~<>=! -]{0,40}( \\}\\})?") {
        targets::evaluate_expression(text.as_bytes());
    }

    #[test]
    fn pictures_hold(kind in 0_usize..4, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let magic: [&[u8]; 4] = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\0\0WEBP"];
        targets::inspect_picture(&[magic[kind], bytes.as_slice()].concat());
    }

    #[test]
    fn bounce_reports_hold(
        part in "(message/delivery-status|message/feedback-report|message/rfc822|[a-z/;=\" ]{0,20})",
        fields in "((Action|Status|Final-Recipient|Feedback-Type|Original-Rcpt-To): ?(failed|5\\.1\\.1|rfc822;|abuse)?|[a@. \t\0\r\n-]){0,40}",
        json in "[\\[{]?(\"(event|email|Type|RecordType|notificationType|bounce)\":?|\"a@b\\.c\"|[,:\\[\\]{}0-9]){0,20}"
    ) {
        let message = format!("Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: {part}\n\n{fields}\n--b--");
        targets::read_bounce_report(message.as_bytes());
        targets::read_bounce_report(fields.as_bytes());
        targets::read_bounce_report(json.as_bytes());
    }

    #[test]
    fn definitions_hold(text in "(name|steps|params|triggers|if|uses|id|with|[a-z]|[0-9]|[:{}\\[\\],&*!|>'\"#\n -]){0,60}") {
        targets::load_yaml(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn forms_hold(name in "[a-zé\"\\\\;= ]{0,9}", middle in "[\r\n:;a-z\"= -]{0,40}", body in "[a-c\r\n-]{0,40}") {
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"");
        for head in [disposition.clone(), format!("{disposition}; filename=\"{name}\""), middle.clone()] {
            targets::send_form(format!("--b\r\n{head}\r\n{middle}\r\n\r\n{body}\r\n--b--\r\n").as_bytes());
        }
    }

    #[test]
    fn s3_requests_hold(method in any::<u8>(), target in "(open)?[/a-z%0-9?&=+.é-]{0,40}") {
        targets::send_s3_request(&[[method].as_slice(), target.as_bytes()].concat());
    }
}
