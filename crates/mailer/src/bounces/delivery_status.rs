//! Reports as messages: delivery status notifications (RFC 3464), and abuse reports (RFC 5965).

use super::message_parts::{Fields, read_groups, split_header, split_parts};
use super::report::{BounceKind, ParsedBounces, invalid_report};
use afterload_core::error::Result;

/// Reads a report as a mail server or a mailbox provider sends it.
///
/// # Errors
/// `bounce_invalid` for any other message, and for a report that names no recipient.
pub fn parse_report_message(message: &[u8]) -> Result<ParsedBounces> {
    let (header, body) = split_header(message);
    if header.media_type() != "multipart/report" {
        return Err(invalid_report("it is no message of the type `multipart/report`"));
    }
    let Some(boundary) = header.media_type_param("boundary").filter(|boundary| !boundary.is_empty()) else {
        return Err(invalid_report("its `Content-Type` names no boundary"));
    };
    let mut parsed = ParsedBounces::default();
    for part in split_parts(body, &boundary) {
        let (header, content) = split_header(part);
        let read: fn(&[Fields], &mut ParsedBounces) = match header.media_type().as_str() {
            "message/delivery-status" | "message/global-delivery-status" => read_delivery_status,
            "message/feedback-report" => read_feedback,
            _ => continue,
        };
        let encoding = header.get("content-transfer-encoding").unwrap_or("7bit").to_ascii_lowercase();
        if !["7bit", "8bit", "binary"].contains(&encoding.as_str()) {
            return Err(invalid_report("its fields are encoded, which the standard forbids"));
        }
        read(&read_groups(content), &mut parsed);
    }
    match parsed.reports.is_empty() && parsed.ignored == 0 {
        true => Err(invalid_report("it names no recipient")),
        false => Ok(parsed),
    }
}

/// The first group is about the message, each of the others about a recipient.
fn read_delivery_status(groups: &[Fields], parsed: &mut ParsedBounces) {
    for fields in groups.iter().filter(|fields| fields.get("action").is_some()) {
        // The mail may have been forwarded: the original recipient is the one that it was sent to.
        let recipient = ["original-recipient", "final-recipient"].into_iter().find_map(|name| {
            let (kind, address) = fields.get(name)?.split_once(';')?;
            let is_mail = ["rfc822", "utf-8"].iter().any(|known| kind.trim().eq_ignore_ascii_case(known));
            is_mail.then(|| address.trim())
        });
        let status = fields.get("status").unwrap_or_default();
        let detail = fields.get("diagnostic-code").map_or(status, |text| text.trim_start_matches("smtp;").trim());
        let action = fields.get("action").unwrap_or_default().to_ascii_lowercase();
        match (action.as_str(), recipient) {
            ("failed", Some(address)) => parsed.add_report(address, BounceKind::from_status(status), detail),
            ("delayed", Some(address)) => parsed.add_report(address, BounceKind::Transient, detail),
            _ => parsed.ignored += 1,
        }
    }
}

fn read_feedback(groups: &[Fields], parsed: &mut ParsedBounces) {
    let Some(fields) = groups.first() else { return };
    let kind = fields.get("feedback-type").unwrap_or_default().to_ascii_lowercase();
    let is_complaint = ["abuse", "fraud", "virus", "other"].contains(&kind.as_str());
    // The field is there once for each recipient.
    let mut recipients = fields.get_all("original-rcpt-to").filter(|_| is_complaint).peekable();
    if recipients.peek().is_none() {
        parsed.ignored += 1;
    }
    for address in recipients {
        parsed.add_report(address, BounceKind::Complaint, &kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounces::BounceReport;
    use crate::codes;
    use afterload_core::work::assert_linear;

    fn report(address: &str, kind: BounceKind, detail: &str) -> BounceReport {
        BounceReport { address: address.into(), kind, detail: detail.into() }
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 3464, appendix E.
        let simple = parse_report_message(include_bytes!("fixtures/rfc3464-simple.eml")).unwrap();
        let louisl = report("louisl@larry.slip.umd.edu", BounceKind::Transient, "426 connection timed out");
        assert_eq!(simple.reports, [louisl]);
        let multi = parse_report_message(include_bytes!("fixtures/rfc3464-multi.eml")).unwrap();
        let detail = "550 'arathib@vnet.IBM.COM' is not a registered gateway user";
        assert_eq!(
            multi.reports,
            [
                report("arathib@vnet.ibm.com", BounceKind::Permanent, detail),
                report(
                    "johnh@hpnjld.njd.hp.com",
                    BounceKind::Transient,
                    "4.0.0 (hpnjld.njd.jp.com: host name lookup failure)"
                ),
                report("wsnell@sdcc13.ucsd.edu", BounceKind::Permanent, "550 user unknown"),
            ]
        );
    }

    #[test]
    fn reports_of_postfix_and_abuse_reports_are_read() {
        let postfix = parse_report_message(include_bytes!("fixtures/postfix.eml")).unwrap();
        assert_eq!((postfix.reports.len(), postfix.reports[0].kind), (1, BounceKind::Permanent));
        assert_eq!(postfix.reports[0].address, "gone@example.com", "the one that the mail was sent to");
        assert!(postfix.reports[0].detail.starts_with("550 5.1.1 <gone@example.net>: Recipient"), "{postfix:?}");
        // RFC 5965, appendix B.
        let abuse = parse_report_message(include_bytes!("fixtures/rfc5965.eml")).unwrap();
        assert_eq!(abuse.reports, [report("user@example.com", BounceKind::Complaint, "abuse")]);
        let header = "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\n";
        let two = format!("{header}Feedback-Type: abuse\nOriginal-Rcpt-To: a@b.co\nOriginal-Rcpt-To: <c@b.co>\n");
        let addresses = parse_report_message(two.as_bytes()).unwrap().reports;
        let addresses: Vec<_> = addresses.iter().map(|report| report.address.as_str()).collect();
        assert_eq!(addresses, ["a@b.co", "c@b.co"]);
    }

    #[test]
    fn other_messages_are_refused() {
        let body = |content: &str| format!("Content-Type: multipart/report; boundary=b\n\n{content}");
        let cases = [
            String::new(),
            "\n\n".into(),
            "Subject: Out of office\n\nI am away.\n".into(),
            "Content-Type: multipart/report\n\n--b\n".into(),
            "Content-Type: multipart/report; boundary=\"\"\n\n--\n".into(),
            body(""),
            body("--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; a\n\nStatus: 5.1.1\n--b--\n"),
            body("--b\nContent-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\nQQ==\n--b--\n"),
            // The mail that came back may hold a report of its own.
            body(
                "--b\nContent-Type: message/rfc822\n\nContent-Type: message/delivery-status\n\nAction: failed\n--b--\n",
            ),
        ];
        for message in cases {
            let error = parse_report_message(message.as_bytes()).expect_err(&message);
            assert_eq!(error.code(), codes::BOUNCE_INVALID, "{message}");
        }
        let status = "--b\nContent-Type: message/delivery-status\n\nFinal-Recipient: rfc822; a@b.c\0\nAction: failed\n";
        let parsed = parse_report_message(body(status).as_bytes()).unwrap();
        assert_eq!((parsed.reports.len(), parsed.ignored), (0, 1), "an address with a NUL is none");
    }

    #[test]
    fn hostile_reports_take_linear_work() {
        let part = "--b\nContent-Type: message/delivery-status\n\nAction: failed\nFinal-Recipient: rfc822; a@b.c\n\n";
        let nested = "--b\nContent-Type: multipart/report; boundary=b\n\n";
        let repeated = [
            part,
            nested,
            "--b\n",
            "\n",
            ":",
            " folded\n",
            "Content-Type: ;=;=\n",
            "--b\nContent-Type: message/rfc822\n\n",
        ];
        for shape in repeated {
            let build = |count: usize| {
                format!(
                    "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n{}",
                    shape.repeat(count)
                )
            };
            assert_linear(shape, build, |text| drop(parse_report_message(text.as_bytes())));
        }
        let params = |count: usize| format!("Content-Type: multipart/report; {}\n\n", "a=b; ".repeat(count));
        assert_linear("parameters", params, |text| drop(parse_report_message(text.as_bytes())));
    }
}
