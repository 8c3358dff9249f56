//! The state machine: a pure function from the steps of a run to their next changes. `ARCHITECTURE.md` draws it.

use afterload_core::error::{Error, Result};
use afterload_pipeline::Section;
use afterload_state::{RunStatus, RunStop, StepStatus};

/// A step as the state machine sees it.
#[derive(Clone, Debug)]
pub struct StepNode<'a> {
    /// The id of the step.
    pub id: &'a str,
    /// The section of the step.
    pub section: Section,
    /// The steps of the same section that must end first.
    pub needs: &'a [String],
    /// A failure is recorded but does not fail the run.
    pub continue_on_error: bool,
    /// The current status.
    pub status: StepStatus,
}

/// The change of a waiting step.
#[derive(Debug)]
pub enum StepChange {
    /// Its job is enqueued.
    Queue,
    /// It ends without an attempt: its condition is false, or its section does not run.
    Skip,
    /// It ends without an attempt: a step that it needs failed, or the run stops its steps.
    Cancel,
    /// Evaluating its condition failed.
    Fail(Error),
}

impl StepChange {
    /// The status after the change.
    pub fn target_status(&self) -> StepStatus {
        match self {
            Self::Queue => StepStatus::Queued,
            Self::Skip => StepStatus::Skipped,
            Self::Cancel => StepStatus::Cancelled,
            Self::Fail(_) => StepStatus::Failed,
        }
    }
}

/// The changes of a run.
#[derive(Debug)]
pub struct RunAdvance {
    /// The changed steps, by index.
    pub changes: Vec<(usize, StepChange)>,
    /// The final status of the run, if all its steps have ended.
    pub ended: Option<RunStatus>,
}

/// Changes every waiting step that can change, until none is left. `holds` evaluates the condition of a step with the
/// current statuses. In a cancelled run only `finally` still starts, in one that timed out also `on_failure`.
pub fn advance_nodes(
    nodes: &mut [StepNode<'_>],
    stop: Option<RunStop>,
    mut holds: impl FnMut(usize, &[StepNode<'_>]) -> Result<bool>,
) -> RunAdvance {
    let mut changes = Vec::new();
    for section in Section::ALL {
        let call = match (section, stop) {
            (Section::Finally, _) => SectionAction::Run,
            (Section::Main, Some(_)) => SectionAction::Cancel,
            (Section::Main, None) => SectionAction::Run,
            (Section::OnFailure, Some(RunStop::TimedOut)) => SectionAction::Run,
            (Section::OnSuccess | Section::OnFailure, Some(_)) => SectionAction::Skip,
            (Section::OnSuccess, None) => action_after(nodes, RunStatus::Succeeded),
            (Section::OnFailure, None) => action_after(nodes, RunStatus::Failed),
        };
        while let Some((index, change)) = next_change(nodes, section, call, &mut holds) {
            nodes[index].status = change.target_status();
            changes.push((index, change));
        }
        if nodes.iter().any(|node| node.section == section && !node.status.is_final()) {
            return RunAdvance { changes, ended: None };
        }
    }
    let failed = Section::ALL.into_iter().any(|section| section_outcome(nodes, section) == RunStatus::Failed);
    let ended = match (stop, failed) {
        (Some(RunStop::Cancelled), _) => RunStatus::Cancelled,
        (Some(RunStop::TimedOut), _) | (None, true) => RunStatus::Failed,
        (None, false) => RunStatus::Succeeded,
    };
    RunAdvance { changes, ended: Some(ended) }
}

/// How the waiting steps of a section change.
#[derive(Clone, Copy)]
enum SectionAction {
    /// They start when the steps that they need have ended.
    Run,
    /// The section does not run.
    Skip,
    /// The run stops them.
    Cancel,
}

/// The action of a handler that runs after this outcome of the main steps.
fn action_after(nodes: &[StepNode<'_>], outcome: RunStatus) -> SectionAction {
    if section_outcome(nodes, Section::Main) == outcome { SectionAction::Run } else { SectionAction::Skip }
}

/// The outcome of a section whose steps have all ended.
pub fn section_outcome(nodes: &[StepNode<'_>], section: Section) -> RunStatus {
    let failed = nodes.iter().any(|node| node.section == section && blocks_dependents(node));
    if failed { RunStatus::Failed } else { RunStatus::Succeeded }
}

fn next_change(
    nodes: &[StepNode<'_>],
    section: Section,
    call: SectionAction,
    holds: &mut impl FnMut(usize, &[StepNode<'_>]) -> Result<bool>,
) -> Option<(usize, StepChange)> {
    let waiting =
        nodes.iter().enumerate().filter(|(_, node)| node.section == section && node.status == StepStatus::Waiting);
    for (index, node) in waiting {
        match call {
            SectionAction::Run => {}
            SectionAction::Skip => return Some((index, StepChange::Skip)),
            SectionAction::Cancel => return Some((index, StepChange::Cancel)),
        }
        let needed =
            || nodes.iter().filter(|other| other.section == section && node.needs.iter().any(|need| need == other.id));
        if needed().any(blocks_dependents) {
            return Some((index, StepChange::Cancel));
        }
        if needed().all(|need| need.status.is_final()) {
            let change = match holds(index, nodes) {
                Ok(true) => StepChange::Queue,
                Ok(false) => StepChange::Skip,
                Err(error) => StepChange::Fail(error),
            };
            return Some((index, change));
        }
    }
    None
}

/// True if the step fails the run and cancels the steps that need it. A skipped step satisfies them.
fn blocks_dependents(node: &StepNode<'_>) -> bool {
    match node.status {
        StepStatus::Failed | StepStatus::Quarantined => !node.continue_on_error,
        StepStatus::Cancelled => true,
        StepStatus::Waiting | StepStatus::Queued | StepStatus::Running => false,
        StepStatus::Suspended | StepStatus::Retrying => false,
        StepStatus::Succeeded | StepStatus::Skipped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;
    use StepStatus::{Cancelled, Failed, Queued, Running, Skipped, Succeeded, Waiting};

    /// `id`, section, needs (comma-separated), `continue_on_error`, status.
    type Spec = (&'static str, Section, &'static str, bool, StepStatus);

    fn run(specs: &[Spec], condition: impl Fn(&str) -> Result<bool>) -> (Vec<StepStatus>, Option<RunStatus>) {
        let needs: Vec<Vec<String>> = specs
            .iter()
            .map(|spec| spec.2.split(',').filter(|need| !need.is_empty()).map(str::to_owned).collect())
            .collect();
        let mut nodes: Vec<_> = specs
            .iter()
            .zip(&needs)
            .map(|(&(id, section, _, continue_on_error, status), needs)| StepNode {
                id,
                section,
                needs,
                continue_on_error,
                status,
            })
            .collect();
        let advance = advance_nodes(&mut nodes, None, |index, nodes| condition(nodes[index].id));
        (nodes.iter().map(|node| node.status).collect(), advance.ended)
    }

    fn always(_: &str) -> Result<bool> {
        Ok(true)
    }

    #[test]
    fn new_run_queues_steps_without_needs() {
        let specs = [
            ("a", Section::Main, "", false, Waiting),
            ("b", Section::Main, "", false, Waiting),
            ("c", Section::Main, "a,b", false, Waiting),
        ];
        assert_eq!(run(&specs, always), (vec![Queued, Queued, Waiting], None));
    }

    #[test]
    fn step_waits_until_all_its_needs_have_ended() {
        let specs = [
            ("a", Section::Main, "", false, Succeeded),
            ("b", Section::Main, "", false, Running),
            ("c", Section::Main, "a,b", false, Waiting),
        ];
        assert_eq!(run(&specs, always), (vec![Succeeded, Running, Waiting], None));
        let specs = [
            ("a", Section::Main, "", false, Succeeded),
            ("b", Section::Main, "", false, Skipped),
            ("c", Section::Main, "a,b", false, Waiting),
        ];
        assert_eq!(run(&specs, always), (vec![Succeeded, Skipped, Queued], None));
    }

    #[test]
    fn failure_cancels_only_dependent_steps() {
        let specs = [
            ("a", Section::Main, "", false, Failed),
            ("b", Section::Main, "a", false, Waiting),
            ("c", Section::Main, "b", false, Waiting),
            ("d", Section::Main, "", false, Running),
        ];
        assert_eq!(run(&specs, always), (vec![Failed, Cancelled, Cancelled, Running], None));
    }

    #[test]
    fn failure_with_continue_on_error_does_not_fail_the_run() {
        let specs = [("a", Section::Main, "", true, Failed), ("b", Section::Main, "a", false, Waiting)];
        assert_eq!(run(&specs, always), (vec![Failed, Queued], None));
        let specs = [("a", Section::Main, "", true, Failed), ("b", Section::Main, "a", false, Succeeded)];
        assert_eq!(run(&specs, always).1, Some(RunStatus::Succeeded));
    }

    #[test]
    fn handlers_follow_the_outcome_and_finally_runs_last() {
        let hooks = |main| {
            [
                ("a", Section::Main, "", false, main),
                ("ok", Section::OnSuccess, "", false, Waiting),
                ("alarm", Section::OnFailure, "", false, Waiting),
                ("clean", Section::Finally, "", false, Waiting),
            ]
        };
        assert_eq!(run(&hooks(Running), always), (vec![Running, Waiting, Waiting, Waiting], None));
        assert_eq!(run(&hooks(Succeeded), always), (vec![Succeeded, Queued, Waiting, Waiting], None));
        assert_eq!(run(&hooks(Failed), always), (vec![Failed, Skipped, Queued, Waiting], None));
        let mut done = hooks(Failed);
        done[2].4 = Succeeded;
        assert_eq!(run(&done, always), (vec![Failed, Skipped, Succeeded, Queued], None));
        done[3].4 = Succeeded;
        assert_eq!(run(&done, always), (vec![Failed, Skipped, Succeeded, Succeeded], Some(RunStatus::Failed)));
    }

    #[test]
    fn failed_handler_fails_the_run() {
        let specs = [("a", Section::Main, "", false, Succeeded), ("ok", Section::OnSuccess, "", false, Failed)];
        assert_eq!(run(&specs, always).1, Some(RunStatus::Failed));
    }

    #[test]
    fn false_condition_skips_and_broken_condition_fails() {
        let specs = [("a", Section::Main, "", false, Waiting), ("b", Section::Main, "a", false, Waiting)];
        assert_eq!(run(&specs, |id| Ok(id != "a")), (vec![Skipped, Queued], None));
        let broken = |id: &str| if id == "a" { Err(Error::new(codes::EXPRESSION_FAILED, "no")) } else { Ok(true) };
        assert_eq!(run(&specs, broken), (vec![Failed, Cancelled], Some(RunStatus::Failed)));
    }

    #[test]
    fn run_with_only_skipped_steps_succeeds() {
        let specs = [("a", Section::Main, "", false, Waiting), ("b", Section::Finally, "", false, Waiting)];
        assert_eq!(run(&specs, |_| Ok(false)), (vec![Skipped, Skipped], Some(RunStatus::Succeeded)));
    }

    #[test]
    fn cancelled_run_starts_only_finally() {
        let needs: [String; 0] = [];
        let node = |id, section, status| StepNode { id, section, needs: &needs, continue_on_error: false, status };
        let mut nodes = [
            node("a", Section::Main, Running),
            node("b", Section::Main, Waiting),
            node("alarm", Section::OnFailure, Waiting),
            node("clean", Section::Finally, Waiting),
        ];
        let first = advance_nodes(&mut nodes, Some(RunStop::Cancelled), |_, _| Ok(true));
        assert_eq!(nodes.each_ref().map(|node| node.status), [Running, Cancelled, Waiting, Waiting]);
        assert_eq!(first.ended, None);
        nodes[0].status = Cancelled;
        advance_nodes(&mut nodes, Some(RunStop::Cancelled), |_, _| Ok(true));
        assert_eq!(nodes.each_ref().map(|node| node.status), [Cancelled, Cancelled, Skipped, Queued]);
        nodes[3].status = Failed;
        assert_eq!(
            advance_nodes(&mut nodes, Some(RunStop::Cancelled), |_, _| Ok(true)).ended,
            Some(RunStatus::Cancelled)
        );
    }

    #[test]
    fn run_that_timed_out_starts_on_failure_and_finally_and_fails() {
        let needs: [String; 0] = [];
        let node = |id, section, status| StepNode { id, section, needs: &needs, continue_on_error: true, status };
        let sections = [Section::Main, Section::Main, Section::OnSuccess, Section::OnFailure, Section::Finally];
        let mut nodes = sections.map(|section| node("a", section, Waiting));
        nodes[0].status = Running;
        let statuses = |nodes: &[StepNode<'_>; 5]| nodes.each_ref().map(|node| node.status);
        let advance =
            |nodes: &mut [StepNode<'_>; 5]| advance_nodes(nodes, Some(RunStop::TimedOut), |_, _| Ok(true)).ended;
        assert_eq!(advance(&mut nodes), None);
        assert_eq!(statuses(&nodes), [Running, Cancelled, Waiting, Waiting, Waiting]);
        // What the last step still did in time does not change the outcome.
        nodes[0].status = Succeeded;
        assert_eq!(advance(&mut nodes), None);
        assert_eq!(statuses(&nodes), [Succeeded, Cancelled, Skipped, Queued, Waiting]);
        nodes[3].status = Succeeded;
        assert_eq!(advance(&mut nodes), None);
        assert_eq!(statuses(&nodes), [Succeeded, Cancelled, Skipped, Succeeded, Queued]);
        nodes[4].status = Succeeded;
        assert_eq!(advance(&mut nodes), Some(RunStatus::Failed));
    }
}
