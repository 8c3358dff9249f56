//! Finds pipelines that start each other without end: each surely writes or sends what starts the next one.
//!
//! What an expression decides is not an edge of the graph. Such a loop is stopped at run time, by the number of runs in its
//! chain.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Pipeline;
use super::plan::Trigger;
use super::run_effect::{CertainEffect, RunEffect};
use crate::codes;
use afterload_spanned_yaml::Diagnostic;

/// What starts a pipeline, and what each of its successful runs does.
#[derive(Clone, Debug, Default)]
pub struct TriggerFlow {
    name: String,
    triggers: Vec<Trigger>,
    effects: Vec<CertainEffect>,
}

impl From<&Pipeline> for TriggerFlow {
    fn from(pipeline: &Pipeline) -> Self {
        Self {
            name: pipeline.plan.name.clone(),
            triggers: pipeline.plan.triggers.clone(),
            effects: pipeline.effects.clone(),
        }
    }
}

impl TriggerFlow {
    /// True if one of these effects surely starts the pipeline.
    fn is_started_by(&self, effects: &[CertainEffect]) -> bool {
        effects.iter().any(|CertainEffect { effect, .. }| match effect {
            RunEffect::WriteObjects { bucket, key } => self
                .triggers
                .iter()
                .filter_map(Trigger::as_s3)
                .any(|trigger| trigger.bucket == *bucket && key.always_matches(&trigger.prefix, &trigger.suffix)),
            RunEffect::PublishEvent(name) => {
                self.triggers.iter().filter_map(Trigger::as_event).any(|trigger| trigger.name == *name)
            }
            RunEffect::StartRun(name) => self.name == *name,
        })
    }
}

/// Where what starts a pipeline happens. Few pipelines share one, so that an effect is compared with few triggers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StartSource {
    Bucket(String),
    Event(String),
    /// The API starts this pipeline.
    Call(String),
}

impl From<&RunEffect> for StartSource {
    fn from(effect: &RunEffect) -> Self {
        match effect {
            RunEffect::WriteObjects { bucket, .. } => Self::Bucket(bucket.clone()),
            RunEffect::PublishEvent(name) => Self::Event(name.clone()),
            RunEffect::StartRun(name) => Self::Call(name.clone()),
        }
    }
}

impl TriggerFlow {
    fn start_sources(&self) -> BTreeSet<StartSource> {
        let buckets = self.triggers.iter().filter_map(Trigger::as_s3);
        let events = self.triggers.iter().filter_map(Trigger::as_event);
        buckets
            .map(|trigger| StartSource::Bucket(trigger.bucket.clone()))
            .chain(events.map(|trigger| StartSource::Event(trigger.name.clone())))
            .chain([StartSource::Call(self.name.clone())])
            .collect()
    }
}

/// Which pipelines start which others.
#[derive(Clone, Debug, Default)]
pub struct TriggerGraph {
    flows: BTreeMap<String, TriggerFlow>,
    names_by_source: BTreeMap<StartSource, BTreeSet<String>>,
}

impl TriggerGraph {
    /// Adds a pipeline whatever it closes, in the place of an earlier one of its name.
    pub fn insert(&mut self, flow: TriggerFlow) {
        for source in flow.start_sources() {
            self.names_by_source.entry(source).or_default().insert(flow.name.clone());
        }
        let name = flow.name.clone();
        let Some(earlier) = self.flows.insert(name.clone(), flow) else { return };
        let kept = self.flows[&name].start_sources();
        for source in earlier.start_sources().difference(&kept) {
            if let Some(names) = self.names_by_source.get_mut(source) {
                names.remove(&name);
            }
        }
    }

    /// Adds a pipeline in the place of an earlier one of its name. Returns the problem if it would close a loop, and
    /// changes nothing then.
    #[must_use]
    pub fn insert_unless_loop(&mut self, flow: TriggerFlow) -> Option<Diagnostic> {
        // Each effect is followed on its own, so that the problem shows the one that closes the loop.
        let closing = flow.effects.iter().find_map(|effect| Some((effect.span, self.find_loop(&flow, effect)?)));
        let Some((span, names)) = closing else {
            self.insert(flow);
            return None;
        };
        let message = "what the step writes or sends starts the pipeline again, without end";
        let hint = format!(
            "the loop is {names}; write under a prefix that no trigger of the loop has, or send what starts none of it"
        );
        Some(Diagnostic::new(codes::TRIGGER_LOOP, span, message).with_hint(hint))
    }

    /// The shortest way from an effect of a pipeline back to the pipeline, as text with the pipeline at both ends.
    fn find_loop(&self, flow: &TriggerFlow, effect: &CertainEffect) -> Option<String> {
        // What starts each pipeline that was reached.
        let mut starters: BTreeMap<&str, &str> = BTreeMap::new();
        let mut open = VecDeque::from([(flow.name.as_str(), std::slice::from_ref(effect))]);
        while let Some((name, effects)) = open.pop_front() {
            if flow.is_started_by(effects) {
                let mut names = vec![format!("`{}`", flow.name)];
                let mut at = name;
                while at != flow.name {
                    names.push(format!("`{at}`"));
                    at = *starters.get(at)?;
                }
                names.push(format!("`{}`", flow.name));
                names.reverse();
                return Some(names.join(" -> "));
            }
            for other in self.started_flows(effects).into_values().filter(|other| other.name != flow.name) {
                if let Entry::Vacant(entry) = starters.entry(other.name.as_str()) {
                    entry.insert(name);
                    open.push_back((other.name.as_str(), other.effects.as_slice()));
                }
            }
        }
        None
    }

    /// The pipelines that these effects surely start, by name.
    fn started_flows(&self, effects: &[CertainEffect]) -> BTreeMap<&str, &TriggerFlow> {
        let mut started: BTreeMap<&str, &TriggerFlow> = BTreeMap::new();
        for effect in effects {
            let names = self.names_by_source.get(&StartSource::from(&effect.effect));
            let flows = names.into_iter().flatten().filter_map(|name| self.flows.get(name));
            let started_now = flows.filter(|flow| flow.is_started_by(std::slice::from_ref(effect)));
            started.extend(started_now.map(|flow| (flow.name.as_str(), flow)));
        }
        started
    }
}

#[cfg(test)]
mod tests {
    use super::super::ast::KeySuffix;
    use super::super::plan::{EventTrigger, S3Trigger};
    use super::super::run_effect::KeyShape;
    use super::*;
    use afterload_spanned_yaml::SourceSpan;

    /// A pipeline that takes `PREFIX*SUFFIX` of the bucket `uploads` and writes these keys there.
    fn flow(name: &str, (prefix, suffix): (&str, &str), keys: &[&str]) -> TriggerFlow {
        let trigger = S3Trigger {
            bucket: "uploads".into(),
            prefix: prefix.into(),
            suffix: KeySuffix::One(suffix.into()),
            poll_ms: None,
            batching: None,
            with: serde_json::Map::new(),
        };
        let write = |(line, key): (usize, &&str)| CertainEffect {
            effect: RunEffect::WriteObjects { bucket: "uploads".into(), key: KeyShape::from_template(key) },
            span: SourceSpan { line, ..SourceSpan::default() },
        };
        let effects = keys.iter().enumerate().map(write).collect();
        TriggerFlow { name: name.into(), triggers: vec![Trigger::S3(trigger)], effects }
    }

    /// The line and the hint of the problem of the last pipeline, after all others were taken.
    fn last_problem(flows: Vec<TriggerFlow>) -> Option<(usize, String)> {
        let mut graph = TriggerGraph::default();
        let mut problems: Vec<_> = flows.into_iter().map(|flow| graph.insert_unless_loop(flow)).collect();
        let last = problems.pop().expect("a pipeline");
        assert!(problems.iter().all(Option::is_none), "{problems:?}");
        last.map(|problem| {
            assert_eq!(problem.code, codes::TRIGGER_LOOP);
            (problem.span.line, problem.hint.unwrap_or_default())
        })
    }

    #[test]
    fn pipeline_that_closes_a_loop_is_a_problem_of_its_output() {
        let (line, hint) = last_problem(vec![
            flow("a", ("a/", ""), &["b/${{ run.id }}.csv"]),
            flow("c", ("c/", ""), &["a/${{ file.name }}"]),
            flow("aside", ("b/", ""), &["aside/x"]),
            flow("b", ("b/", ".csv"), &["elsewhere/x", "c/${{ run.id }}"]),
        ])
        .expect("a loop");
        assert_eq!(line, 1, "the second write closes it");
        assert!(hint.starts_with("the loop is `b` -> `c` -> `a` -> `b`; "), "{hint}");
        let (_, hint) = last_problem(vec![flow("a", ("", ""), &["x/y"])]).expect("a loop");
        assert!(hint.starts_with("the loop is `a` -> `a`; "), "{hint}");
    }

    #[test]
    fn what_is_not_certain_is_no_loop() {
        let thumbs = || flow("thumbs", ("uploads/", ".jpg"), &["thumbs/${{ file.name }}"]);
        for other in [
            flow("other", ("thumbs/", ""), &["small/${{ file.name }}"]),
            flow("other", ("thumbs/", ""), &["uploads/${{ run.id }}.png"]),
            flow("other", ("thumbs/", ""), &["uploads/${{ run.id }}.${{ params.ending }}"]),
            flow("other", ("thumbs/", ""), &["${{ params.folder }}/a.jpg"]),
            flow("other", ("thumbs/", ".jpg"), &["uploads/a.jpg"]),
            flow("other", ("thumb/", ""), &["uploads/a.jpg"]),
        ] {
            let shown = format!("{other:?}");
            assert_eq!(last_problem(vec![thumbs(), other]), None, "{shown}");
        }
        let key = KeyShape::from_template("uploads/a.jpg");
        let effect = RunEffect::WriteObjects { bucket: "public".into(), key };
        let effects = vec![CertainEffect { effect, span: SourceSpan::default() }];
        let elsewhere = TriggerFlow { effects, ..flow("other", ("thumbs/", ""), &[]) };
        assert_eq!(last_problem(vec![thumbs(), elsewhere]), None);
    }

    #[test]
    fn events_and_calls_close_loops_too() {
        let on_event = |name: &str, event: &str, effect: RunEffect| TriggerFlow {
            name: name.into(),
            triggers: vec![Trigger::Event(EventTrigger {
                name: event.into(),
                batching: None,
                with: serde_json::Map::new(),
            })],
            effects: vec![CertainEffect { effect, span: SourceSpan::default() }],
        };
        let publish = |event: &str| RunEffect::PublishEvent(event.into());
        let (_, hint) = last_problem(vec![
            on_event("a", "order.placed", publish("order.paid")),
            on_event("b", "order.paid", RunEffect::StartRun("a".into())),
        ])
        .expect("a loop");
        assert!(hint.starts_with("the loop is `b` -> `a` -> `b`; "), "{hint}");
        let (_, hint) = last_problem(vec![on_event("a", "ping", publish("ping"))]).expect("a loop");
        assert!(hint.starts_with("the loop is `a` -> `a`; "), "{hint}");
        let ends = on_event("b", "order.paid", RunEffect::StartRun("c".into()));
        assert_eq!(last_problem(vec![on_event("a", "order.placed", publish("order.paid")), ends]), None);
    }

    #[test]
    fn pipeline_takes_the_place_of_the_earlier_one_of_its_name() {
        let a = || flow("a", ("a/", ""), &["b/x"]);
        let mended = || flow("b", ("b/", ""), &["c/x"]);
        assert_eq!(last_problem(vec![flow("b", ("b/", ""), &["c/x"]), a(), mended()]), None);
        let mut graph = TriggerGraph::default();
        assert!(graph.insert_unless_loop(a()).is_none());
        assert!(graph.insert_unless_loop(flow("b", ("b/", ""), &["a/x"])).is_some());
        assert!(graph.insert_unless_loop(flow("c", ("c/", ""), &["a/x"])).is_none());
        assert!(graph.insert_unless_loop(mended()).is_some(), "`c` starts `a` now");
        // `a` has another trigger now, so that nothing starts it any more.
        graph.insert(flow("a", ("other/", ""), &["b/x"]));
        assert!(graph.insert_unless_loop(mended()).is_none());
        graph.insert(TriggerFlow { triggers: Vec::new(), ..a() });
        assert!(!graph.names_by_source[&StartSource::Bucket("uploads".into())].contains("a"));
    }
}
