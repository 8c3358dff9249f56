//! The work of `http.request`: a request with a stable key, and what becomes of its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fields::pairs;
use super::{Expect, HttpRequest, Outputs, Verb};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::redact::Redactor;
use afterload_core::units::{self, ByteSize};
use afterload_egress::{Answer, Http, OURS, Request, Webhooks, encode_form};
use afterload_pipeline::Dynamic;
use afterload_step_api::{Begun, Context, Report};

/// How long a call may take whose answer is saved, where nothing is said.
const TIMEOUT_SAVING: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(86_400);
/// How much is saved where nothing is said.
const MOST_SAVED: ByteSize = ByteSize(1 << 30);
/// A step makes one call, which is known by this.
const EFFECT: &str = "call";
/// The longest media type that is believed.
const LONGEST_TYPE: usize = 200;

/// What times are possible.
pub(super) const TIMES: &str = "`timeout` must be more than nothing and at most `1d`";

/// How long a call may take if this is said.
pub(super) fn time(said: units::Duration) -> Result<Duration> {
    let fits = !said.0.is_zero() && said.0 <= LONGEST;
    if fits { Ok(said.0) } else { Err(Error::permanent("with_invalid", TIMES)) }
}

/// A call that can be made.
pub(super) struct Call {
    request: Request,
    expect: Expect,
    signed: bool,
    save: Option<(String, ByteSize)>,
}

/// What is recorded of a call that has succeeded.
#[derive(Serialize, Deserialize)]
struct Recorded {
    status: u16,
    headers: BTreeMap<String, String>,
    text: Option<String>,
}

impl Call {
    pub(super) fn new(step: HttpRequest, ctx: &Context) -> Result<Self> {
        let body = body(step.body, step.json, step.form)?;
        let method = step.method.unwrap_or(if body.is_some() { Verb::Post } else { Verb::Get });
        let mut request = Request::new(method.into(), &step.url.value()?)?;
        for (name, value) in step.headers {
            if !OURS.contains(&name.to_ascii_lowercase().as_str()) {
                request = request.header(&name, &value.value()?)?;
            }
        }
        let query = pairs("query", step.query)?;
        request = request.query(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if let Some((content_type, body)) = body {
            request = request.body(content_type, body);
        }
        let save = step.save.map(Dynamic::value).transpose()?;
        let timeout = step.timeout.map(|said| time(said.value()?)).transpose()?;
        if let Some(timeout) = timeout.or(save.is_some().then_some(TIMEOUT_SAVING)) {
            request = request.timeout(timeout);
        }
        if step.expect.redirects() {
            request = request.without_redirects();
        }
        Ok(Self {
            request: request.header("idempotency-key", &ctx.step.key)?,
            expect: step.expect,
            signed: step.sign.is_some(),
            save: save.map(|name| (name, step.max_size.unwrap_or(MOST_SAVED))),
        })
    }

    /// Makes the call, unless an earlier attempt is known to have done so.
    pub(super) async fn make(self, ctx: &Context, http: &Http) -> Result<Outputs> {
        let hidden = http.redactor();
        if let Some((name, most)) = &self.save {
            let answer = self.answer(ctx, http).await?;
            let (status, headers) = (answer.status(), headers(&answer, hidden));
            let file = save(answer, name, *most, ctx).await?;
            return Ok(Outputs { status, headers, json: None, text: None, file: Some(file) });
        }
        if let Begun::Done(detail) = ctx.effects.begin(EFFECT).await? {
            let recorded: Recorded = serde_json::from_value(detail)
                .map_err(|error| Error::permanent("effect_unreadable", format!("the recorded answer: {error}")))?;
            return Ok(recorded.outputs(hidden));
        }
        let answer = self.answer(ctx, http).await?;
        let (status, headers) = (answer.status(), headers(&answer, hidden));
        let text = String::from_utf8(answer.bytes().await?.into()).ok();
        let recorded = Recorded { status, headers, text: text.map(|text| hidden.redact_text(&text)) };
        ctx.effects.done(EFFECT, json!(recorded)).await?;
        Ok(recorded.outputs(hidden))
    }

    async fn answer(&self, ctx: &Context, http: &Http) -> Result<Answer> {
        let mut request = self.request.clone();
        if self.signed {
            request = request.signed(http.webhooks(), &Webhooks::id(&ctx.step.key))?;
        }
        let answer = http.send(request).await?;
        match self.expect.holds(answer.status()) {
            true => Ok(answer),
            false => Err(answer.unexpected().hint("`expect` says which statuses are a success")),
        }
    }
}

impl Recorded {
    fn outputs(self, hidden: &Redactor) -> Outputs {
        let Self { status, headers, text } = self;
        // What is not text, or compressed although we did not ask for that, is no JSON.
        let json = text.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Outputs { status, headers, json: json.map(|json| hidden.redact_json(json)), text, file: None }
    }
}

/// The body and its type.
fn body(
    body: Option<Dynamic<String>>,
    json: Option<serde_json::Value>,
    form: Option<serde_json::Map<String, serde_json::Value>>,
) -> Result<Option<(&'static str, Bytes)>> {
    Ok(match (body, json, form) {
        (Some(text), ..) => Some(("text/plain; charset=utf-8", text.value()?.into())),
        (None, Some(json), _) => Some(("application/json", json.to_string().into())),
        (None, None, Some(form)) => {
            let form = encode_form(&pairs("form", form)?);
            Some(("application/x-www-form-urlencoded", form.into()))
        }
        (None, None, None) => None,
    })
}

fn headers(answer: &Answer, hidden: &Redactor) -> BTreeMap<String, String> {
    answer.headers().into_iter().map(|(name, value)| (name, hidden.redact_text(&value))).collect()
}

/// Streams the body to a file.
async fn save(mut answer: Answer, name: &str, most: ByteSize, ctx: &Context) -> Result<File> {
    let total = answer.length();
    if total.is_some_and(|total| total > most.0) {
        return Err(answer.too_large(most.0));
    }
    let media = answer.header("content-type").unwrap_or_default().trim();
    let fits =
        media.contains('/') && media.len() <= LONGEST_TYPE && media.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let media = if fits { media.to_owned() } else { "application/octet-stream".to_owned() };
    let mut file = ctx.files.create(name, &media).await?;
    let mut done = 0;
    while let Some(bytes) = answer.chunk().await? {
        ctx.stopped()?;
        done += bytes.len() as u64;
        if done > most.0 {
            return Err(answer.too_large(most.0));
        }
        file.write(bytes).await?;
        ctx.progress.committed(Report { done, total, unit: "bytes".into(), ..Report::default() });
    }
    file.finish().await
}
