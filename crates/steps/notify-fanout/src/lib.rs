//! `notify.fanout`: notifies everyone who is mentioned or follows, once each.

mod check;
mod chunk_finder;
mod code_ranges;
pub mod codes;
mod email;
mod fields;
mod mention_name;
mod mentions;
mod per_recipient;
mod recipients;
mod table;
mod templates;
mod webhook;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use fields::{Audience, DeliverySpec, EmailSpec, Followers, Mentions, TableRowSpec, WebhookSpec};

use afterload_core::error::{Error, Result};
use afterload_egress::EgressClient;
use afterload_mailer::Mailer;
use afterload_pipeline::{DeferredField, Validator};
use afterload_step_api::{ProgressUpdate, Step, StepContext};
use afterload_target_db::Connections;

/// The recorded reasons of a delivery.
const MENTION_REASON: &str = "mention";
const FOLLOW_REASON: &str = "follow";

/// Tells everybody who is named in a text, and everybody whom a query finds, such as the followers of an author: with a row
/// in a table of theirs, by mail, or by a webhook. Everybody is told once; who is named is told of that, even if the delivery
/// is put off to a later attempt.
///
/// The query is read page by page and never held whole. Rows of a table are written by the database itself, in chunks.
///
/// Progress counts people. Promise for a table: exactly one row per person, because rows and cursor are committed together
/// in `afterload_checkpoints`; with `checkpoints: none` on the connection a new attempt starts over, and `keys` still
/// keeps the rows single. For mails: at least once, with a Message-ID that stays the same for the person in this run; who is
/// known to have been sent one is sent no second one. The same for webhooks, with a `webhook-id` and an `Idempotency-Key`;
/// only the public internet is called, and what `http.allow` in the configuration names. An answer of 4xx means that the
/// person cannot be told; 408, 425, 429 and 5xx and a connection that breaks are tried again in the next attempt.
///
/// A mail that the server defers does not keep the others waiting. The step is then suspended and tries it again for about a
/// day (`mail.retry_delays`); `defaults.retry` does not apply to it, the step's own `retry` does. Each attempt reads the
/// people from the first chunk with a deferred mail on, and sends only what the delivery log lacks. A person whose address is
/// refused is not asked again. While it waits for its turn under `mail.per_minute`, the step holds no worker, and its `timeout`
/// does not run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyFanout {
    /// Who is told.
    audience: Audience,
    /// How they are told.
    deliver: DeliverySpec,
    /// How many people a chunk has: as many rows are written in one transaction.
    #[serde(default = "default_chunk_recipients")]
    #[schemars(range(min = 1, max = 100_000))]
    chunk: u64,
    /// How many mails or webhooks are sent at once, by default 4, or chunks written, by default 2: more writers take more of the
    /// server than they save. SQLite has one writer, whatever is said here.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8))]
    parallel: Option<usize>,
}

const DEFAULT_WRITERS: usize = 2;
const DEFAULT_SENDERS: usize = 4;

/// How many were told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotifyFanoutOutputs {
    /// People who are named.
    mentioned: u64,
    /// People whom the query found, and who came between them while they were told.
    followers: u64,
    /// Deliveries that were made.
    delivered: u64,
    /// People who had theirs already: who is named and follows, and whose row was there before. Of rows also who has left since
    /// the query found them; of mails also whose address is suppressed.
    skipped: u64,
    /// People who cannot be told, such as those whose address does not exist.
    failed: u64,
}

/// The dependencies of [`NotifyFanout`].
#[derive(Clone)]
pub struct NotifyFanoutDeps {
    /// The connections to the users' databases.
    pub connections: Connections,
    /// Sends mails.
    pub mailer: Mailer,
    /// Sends webhooks.
    pub http: EgressClient,
}

impl Step for NotifyFanout {
    const KIND: &'static str = "notify.fanout";
    const EXAMPLE: &'static str = r#"audience:
  followers:
    connection: app
    sql: SELECT follower_id FROM follows WHERE author_id = :author
    key: follower_id
    bind: { author: "${{ params.author }}" }
  mentions:
    text: "${{ params.text }}"
    sql: SELECT id AS follower_id FROM users WHERE name = :name
deliver:
  table:
    into: timeline
    person: user_id
    reason: reason
    values: { post_id: "${{ params.post }}" }
    keys: [user_id, post_id]
"#;
    const MORE_EXAMPLES: &'static [&'static str] = &[
        r#"audience:
  followers:
    sql: SELECT id, name FROM users WHERE country = :country
    key: id
    bind: { country: "${{ params.country }}" }
deliver:
  webhook:
    url: https://push.example.com/users/${{ person.id }}
    headers: { Authorization: "Bearer ${{ secrets.PUSH_TOKEN }}" }
    json: { title: "News for ${{ person.name }}", reason: "${{ reason }}" }
    sign: standard-webhooks
"#,
        r#"audience:
  mentions:
    text: "${{ params.text }}"
    sql: SELECT id, name, email FROM users WHERE name = :name
deliver:
  email:
    subject: "${{ person.name }}, you are mentioned"
    body: "Somebody writes: ${{ params.text }}"
"#,
    ];
    const DEFERRED_FIELDS: &'static [DeferredField] = &[
        DeferredField { path: &["deliver", "email", "subject"], names: &templates::RECIPIENT_VARIABLES },
        DeferredField { path: &["deliver", "email", "body"], names: &templates::RECIPIENT_VARIABLES },
        DeferredField { path: &["deliver", "email", "html"], names: &templates::RECIPIENT_VARIABLES },
        DeferredField { path: &["deliver", "webhook"], names: &templates::RECIPIENT_VARIABLES },
    ];
    type Outputs = NotifyFanoutOutputs;
    type Deps = NotifyFanoutDeps;

    fn check(&self, check: &mut Validator<'_>) {
        check::check_fanout(self, check);
    }

    async fn run(self, ctx: StepContext, deps: NotifyFanoutDeps) -> Result<NotifyFanoutOutputs> {
        let audience = recipients::Recipients::from_audience(self.audience, &deps.connections).await?;
        let DeliverySpec { table, email, webhook } = self.deliver;
        match (table, email, webhook) {
            (Some(row), None, None) => {
                table::insert_rows(&ctx, &audience, &row, self.chunk, self.parallel.unwrap_or(DEFAULT_WRITERS)).await
            }
            (None, Some(letter), None) => {
                let channel = email::EmailChannel::new(&ctx, &deps.mailer, letter).await?;
                let parallel = self.parallel.unwrap_or(DEFAULT_SENDERS);
                let sent = per_recipient::deliver_to_each(&ctx, &audience, &channel, self.chunk, parallel).await;
                match sent {
                    Err(error) => Err(channel.suspend(&ctx, error).await?),
                    sent => sent,
                }
            }
            (None, None, Some(hook)) => {
                let channel = webhook::WebhookChannel::new(&ctx, &deps.http, hook);
                per_recipient::deliver_to_each(
                    &ctx,
                    &audience,
                    &channel,
                    self.chunk,
                    self.parallel.unwrap_or(DEFAULT_SENDERS),
                )
                .await
            }
            _ => Err(Error::new(codes::WITH_INVALID, "`deliver` needs one of `table`, `email` and `webhook`")),
        }
    }
}

impl NotifyFanoutOutputs {
    /// Reports the progress. `total` is the number of recipients, if it is known.
    fn report_progress(&self, ctx: &StepContext, total: Option<u64>) {
        ctx.progress.report_committed(self.to_progress_update(total));
    }

    fn to_progress_update(&self, total: Option<u64>) -> ProgressUpdate {
        let done = self.mentioned + self.followers;
        let counts = [("delivered", self.delivered), ("skipped", self.skipped), ("failed", self.failed)];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let total = total.map(|total| total.max(done));
        ProgressUpdate { done, total, unit: "people".into(), message: None, counts }
    }
}

fn default_chunk_recipients() -> u64 {
    10_000
}
