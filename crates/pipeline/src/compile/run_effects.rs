//! Finds what each successful run of a pipeline does that may start other runs.

use super::super::plan::{OutputTarget, Section};
use super::super::run_effect::{CertainEffect, KeyShape, RunEffect};
use super::super::step_kind::{StepCatalog, StepKind, ValidationContext};
use super::list_items;
use afterload_spanned_yaml::{YamlNode, YamlValue};

/// Returns the effects that no condition and no list of items can prevent.
pub fn find_certain_effects(root: &YamlNode, kinds: &StepCatalog, around: &ValidationContext) -> Vec<CertainEffect> {
    let sections = Section::ALL.into_iter().filter(|section| *section != Section::OnFailure);
    let steps = sections.flat_map(|section| list_items(root.get(section.field_name())));
    let mut effects = Vec::new();
    for step in steps.filter(|step| runs_always(step)) {
        let kind = step.get("uses").and_then(YamlNode::as_str).and_then(|uses| kinds.get(uses));
        let (Some(kind), Some(with)) = (kind, step.get("with")) else { continue };
        effects.extend(certain_write(root, step, kind, with));
        effects.extend(certain_call(kind, with, around));
    }
    effects
}

/// The template of an output's keys, with the name of the pipeline in its place.
pub fn output_key_template(root: &YamlNode, output: &YamlNode) -> String {
    let name = root.get("name").and_then(YamlNode::as_str).unwrap_or_default();
    let key = output.get("key").and_then(YamlNode::as_str).unwrap_or(OutputTarget::DEFAULT_KEY);
    key.replace("${{ run.pipeline }}", name)
}

fn certain_write(root: &YamlNode, step: &YamlNode, kind: &dyn StepKind, with: &YamlNode) -> Option<CertainEffect> {
    let output = step.get("output").filter(|_| kind.always_makes_files(with))?;
    let bucket = output.get("bucket")?.as_str()?.to_owned();
    let key = KeyShape::from_template(&output_key_template(root, output));
    Some(CertainEffect { effect: RunEffect::WriteObjects { bucket, key }, span: output.closest_node(&["key"]).span })
}

fn certain_call(kind: &dyn StepKind, with: &YamlNode, around: &ValidationContext) -> Option<CertainEffect> {
    let effect = RunEffect::from_call(&kind.certain_post(with)?, around.public_url.as_deref()?)?;
    Some(CertainEffect { effect, span: with.closest_node(&["url"]).span })
}

fn runs_always(step: &YamlNode) -> bool {
    step.get("if").is_none() && step.get("for_each").is_none_or(has_certain_items)
}

/// True if the definition lists at least one item itself.
fn has_certain_items(for_each: &YamlNode) -> bool {
    let items = for_each.get("items").map(|items| &items.value);
    matches!(items, Some(YamlValue::Seq(items)) if !items.is_empty())
}
