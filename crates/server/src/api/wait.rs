//! Responses that wait for the end of a run (`Prefer: wait`) or for its inline steps.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::ApiState;
use super::run_feed::WatchKind;
use super::visible_run::{find_run, run_not_found};
use afterload_core::error::Result;
use afterload_engine::RunView;
use afterload_engine::registry::PipelineSummary;

/// How long a response waits, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitPolicy {
    /// For the end of the run.
    pub run: Option<Duration>,
    /// For its inline steps.
    pub inline: Option<Duration>,
}

impl WaitPolicy {
    /// Reads `Prefer: wait=SECONDS` of the request and `mode: inline` of the pipeline.
    pub(super) fn new(app: &ApiState, headers: &HeaderMap, pipeline: &PipelineSummary) -> Self {
        let limits = app.config();
        Self {
            run: preferred_wait(headers).map(|wait| wait.min(limits.max_wait)),
            inline: pipeline.inline_steps().next().map(|_| limits.inline_wait),
        }
    }

    /// Waits, then returns the run as it is at that moment. Returns at once if there is nothing to wait for, or if there
    /// are too many watchers.
    pub(super) async fn wait(self, app: &ApiState, id: &str, pipeline: &PipelineSummary) -> Result<Option<RunView>> {
        let start = Instant::now();
        let watcher = match self == Self::default() {
            true => None,
            false => app.run_feeds().watch(app.engine(), id, WatchKind::Response).ok(),
        };
        let Some(watcher) = watcher else { return find_run(app, id).await };
        let read = || async {
            let view = find_run(app, id).await?;
            view.ok_or_else(|| run_not_found(id))
        };
        let mut run = watcher.next(i64::MIN, read).await?;
        loop {
            let inline = self.inline.filter(|_| !pipeline.inline_steps().all(|step| run.view.step_has_ended(step)));
            let wait = self.run.max(inline).filter(|_| !run.view.is_final());
            let Some(wait) = wait.filter(|wait| start.elapsed() < *wait) else { return Ok(Some(run.view.clone())) };
            tokio::select! {
                next = timeout_at(start + wait, watcher.next(run.view.revision, read)) => match next {
                    Ok(next) => run = next?,
                    Err(_) => return Ok(Some(run.view.clone())),
                },
                // Respond before the shutdown. The run continues in another process, where the client can watch it.
                () = app.engine().shutdown_token().cancelled() => return Ok(Some(run.view.clone())),
            }
        }
    }
}

/// The seconds of `Prefer: wait=…`. Unknown preferences are ignored, as the standard requires.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse::<u32>().ok())?
    });
    seconds.map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefer_wait_is_parsed_by_its_standard() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", axum::http::HeaderValue::from_static(value));
            preferred_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("wait=20"), Some(20));
        assert_eq!(wait("respond-async, Wait = \"7\""), Some(7));
        for value in ["respond-async", "wait", "wait=", "wait=-1", "wait=soon", "waiting=3"] {
            assert_eq!(wait(value), None, "{value}");
        }
    }
}
