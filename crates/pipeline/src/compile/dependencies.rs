//! Resolves `needs`: which steps must end before a step starts.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ast::StepAst;
use super::super::plan::Section;
use super::Diagnostics;
use afterload_spanned_yaml::{YamlNode, YamlValue, suggestion_hint};

/// A step of the file, with the parts that could be read.
pub struct ParsedStep<'a> {
    pub section: Section,
    pub node: &'a YamlNode,
    /// `None` if the step could not be read.
    pub raw: Option<StepAst>,
    /// The id as written. It is set even if the rest of the step could not be read.
    pub id: Option<&'a str>,
}

/// Returns the direct needs of every step of a section, in list order.
pub fn resolve_needs<'a>(steps: &[ParsedStep<'a>], section: Section, faults: &mut Diagnostics) -> Vec<Vec<&'a str>> {
    let own: Vec<&ParsedStep<'a>> = steps.iter().filter(|step| step.section == section).collect();
    let ids: Vec<Option<&'a str>> = own.iter().map(|step| step.id).collect();
    let mut all = Vec::with_capacity(own.len());
    for (index, step) in own.iter().enumerate() {
        let needs = match step.node.get("needs") {
            None => ids[..index].last().copied().flatten().into_iter().collect(),
            Some(node) => explicit_needs(node, index, &ids, steps, faults),
        };
        all.push(needs);
    }
    all
}

fn explicit_needs<'a>(
    node: &'a YamlNode,
    index: usize,
    ids: &[Option<&'a str>],
    steps: &[ParsedStep<'a>],
    faults: &mut Diagnostics,
) -> Vec<&'a str> {
    let mut needs: Vec<&'a str> = Vec::new();
    let items = match &node.value {
        YamlValue::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    for item in items {
        let Some(name) = item.as_str() else { continue };
        let before = ids[..index].iter().flatten().copied();
        match ids.iter().position(|id| *id == Some(name)) {
            Some(at) if at < index => match needs.contains(&name) {
                true => faults.report_invalid(item.span, format!("`{name}` stands twice in `needs`"), ""),
                false => needs.push(name),
            },
            Some(at) if at == index => faults.report_invalid(item.span, format!("step `{name}` needs itself"), ""),
            Some(_) => {
                let hint = format!("put `{name}` before this step");
                faults.report_invalid(item.span, format!("step `{name}` comes later in the list"), hint);
            }
            None => match steps.iter().find(|step| step.id == Some(name)) {
                Some(other) => {
                    let message = format!(
                        "step `{name}` stands in `{}`; `needs` names steps of its own section",
                        other.section.field_name()
                    );
                    let hint = "steps of `on_success`, `on_failure` and `finally` run after all of `steps`";
                    faults.report_invalid(item.span, message, hint);
                }
                None => faults.report_invalid(
                    item.span,
                    format!("unknown step `{name}` in `needs`"),
                    suggestion_hint(name, before.collect::<Vec<_>>()),
                ),
            },
        }
    }
    needs
}

/// Returns, for each step, all steps that must end before it: its needs and their needs.
pub fn transitive_needs<'a>(ids: &[Option<&'a str>], needs: &[Vec<&'a str>]) -> Vec<BTreeSet<&'a str>> {
    let mut known: BTreeMap<&'a str, BTreeSet<&'a str>> = BTreeMap::new();
    let mut all = Vec::with_capacity(ids.len());
    for (id, needs) in ids.iter().zip(needs) {
        let mut before: BTreeSet<&'a str> = needs.iter().copied().collect();
        for need in needs {
            before.extend(known.get(need).into_iter().flatten().copied());
        }
        if let Some(id) = id {
            known.insert(id, before.clone());
        }
        all.push(before);
    }
    all
}
