//! Compiles `output` and `mode`.

use super::super::ast::{OutputAst, StepAst, StepMode};
use super::super::expr::check::NameScope;
use super::super::plan::{OutputTarget, Section};
use super::super::step_kind::{StepKind, ValidationContext};
use super::dependencies::ParsedStep;
use super::{Diagnostics, expressions};
use afterload_spanned_yaml::YamlNode;

/// The maximum key length of S3.
pub const S3_MAX_KEY_BYTES: usize = 1024;

pub fn compile_output(
    node: &YamlNode,
    raw: &StepAst,
    kind: Option<&dyn StepKind>,
    around: &ValidationContext,
    known: &NameScope<'_>,
    faults: &mut Diagnostics,
) -> Option<OutputTarget> {
    let (place, OutputAst { bucket, key, cache_control }) = (node.get("output")?, raw.output.as_ref()?);
    if let Some(kind) = kind.filter(|kind| !kind.makes_files()) {
        let message = format!("`{}` makes no files, so `output` has no meaning here", kind.name());
        faults.report_invalid(node.key("output")?.span, message, "");
    }
    let at = |field: &str| place.closest_node(&[field]).span;
    let written = place.get("bucket").is_some_and(|node| node.as_str().is_some());
    if written && !is_bucket_name(bucket) {
        let hint = "3 to 63 small letters, digits, `-` and `.`; it cannot hold an expression";
        faults.report_invalid(at("bucket"), format!("`{bucket}` is not a name for a bucket"), hint);
    } else if around.artifacts_bucket.as_ref() == Some(bucket) {
        let hint = "name a bucket of your own; without `output` the files go there by themselves";
        faults.report_invalid(at("bucket"), format!("the bucket `{bucket}` holds the service's own files"), hint);
    }
    if let Some(key) = place.get("key") {
        expressions::check_expressions(
            key,
            &NameScope { in_output_key: true, can_read_rows: true, ..known.clone() },
            faults,
        );
    }
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 4 * S3_MAX_KEY_BYTES) {
        faults.report_invalid(at("key"), "`key` must have 1 to 1024 bytes", "");
    }
    if cache_control.as_ref().is_some_and(|value| !value.bytes().all(|byte| (0x20..0x7f).contains(&byte))) {
        let hint = "such as `public, max-age=31536000, immutable`";
        faults.report_invalid(at("cache_control"), "`cache_control` cannot be sent as a header", hint);
    }
    let key = key.clone().unwrap_or_else(|| OutputTarget::DEFAULT_KEY.to_owned());
    Some(OutputTarget { bucket: bucket.clone(), key, cache_control: cache_control.clone() })
}

fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
}

/// Checks that an inline step does not depend on a background step: the response waits for inline steps only.
pub fn check_inline_step(
    step: &ParsedStep<'_>,
    needs: &[&str],
    all: &[ParsedStep<'_>],
    faults: &mut Diagnostics,
) -> bool {
    let is_inline = |step: &ParsedStep<'_>| step.raw.as_ref().is_some_and(|raw| raw.mode == Some(StepMode::Inline));
    if !is_inline(step) {
        return false;
    }
    let span = step.node.closest_node(&["mode"]).span;
    if step.section != Section::Main {
        faults.report_invalid(span, "only steps under `steps` can be `inline`", "the answer does not wait for hooks");
    }
    let needed = all.iter().filter(|other| other.id.is_some_and(|id| needs.contains(&id)));
    for other in needed.filter(|other| !is_inline(other)) {
        let id = other.id.unwrap_or_default();
        let hint = format!("make `{id}` inline too, or let the step need nothing with `needs: []`");
        faults.report_invalid(span, format!("an inline step cannot need `{id}`, which is not inline"), hint);
    }
    true
}
