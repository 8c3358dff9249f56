//! The fields of `notify.fanout`: the audience and the delivery.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use afterload_egress::{RequestHeaders, SignatureScheme};
use afterload_pipeline::Templated;
use afterload_target_db::{BindValues, default_connection};

/// The key column of the mentioned people, if nothing names one.
pub(super) const DEFAULT_KEY: &str = "id";

/// Who is told. At least one of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audience {
    /// Those whom a query finds, as many as there are.
    pub(super) followers: Option<Followers>,
    /// Those who are named in a text as `@name`.
    pub(super) mentions: Option<Mentions>,
}

/// People whom a query finds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Followers {
    /// The connection of the database.
    #[serde(default = "default_connection")]
    pub(super) connection: String,
    /// A `SELECT` without order and limit, whose rows are people. It is paged by `key`, so an index should lead from its
    /// conditions to that column. Parameters are written `:name`; it cannot hold an expression.
    pub(super) sql: String,
    /// The column of the query that tells people apart: whole numbers, texts or UUIDs, in SQLite not as bytes.
    pub(super) key: String,
    /// The values of the parameters. A list alone in `IN (:name)` stands for its items.
    #[serde(default)]
    pub(super) bind: BindValues,
}

/// People who are named in a text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mentions {
    /// The text. Names in code, in mail addresses and in web addresses are passed over; of more than 100 names the first
    /// 100 count.
    pub(super) text: Templated<String>,
    /// A regular expression for the names that follow an `@`, such as `[a-z0-9_]{1,15}`; default words of any script with dots and
    /// hyphens between them, so that `@ann.smith` is not `ann`. Punctuation at the end of a name is passed over; a word that goes
    /// on behind it is no mention.
    #[serde(default)]
    pub(super) pattern: Option<String>,
    /// A `SELECT` that finds who is called `:name`. It gives the same columns as the one of the followers, as far as they are
    /// used.
    pub(super) sql: String,
    /// The connection of the database; default that of the followers, or `app`. Deliveries to a table need it to be the same.
    #[serde(default)]
    pub(super) connection: Option<String>,
    /// The column of the query that tells people apart; default that of the followers, or `id`.
    #[serde(default)]
    pub(super) key: Option<String>,
    /// The values of the parameters but for `name`. A list alone in `IN (:name)` stands for its items.
    #[serde(default)]
    pub(super) bind: BindValues,
}

/// How people are told. Exactly one of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeliverySpec {
    /// A row for everybody, in a table of the database that the people are in.
    pub(super) table: Option<TableRowSpec>,
    /// A mail to everybody.
    pub(super) email: Option<EmailSpec>,
    /// A call for each person, signed if it says so.
    pub(super) webhook: Option<WebhookSpec>,
}

/// A row for everybody.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableRowSpec {
    /// The table.
    #[serde(rename = "into")]
    pub(super) table: String,
    /// The column for the key of the person.
    pub(super) person: String,
    /// The column for the reason: `mention` or `follow`.
    #[serde(default)]
    pub(super) reason: Option<String>,
    /// Columns with the same value for everybody.
    #[serde(default)]
    pub(super) values: Map<String, Value>,
    /// Columns with what a column of the query gives, as `column: column of the query`.
    #[serde(default)]
    pub(super) copy: std::collections::BTreeMap<String, String>,
    /// The columns of a unique constraint: who has such a row gets no second one.
    pub(super) keys: Vec<String>,
}

/// A mail to everybody.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSpec {
    /// The column of the queries with the address.
    #[serde(default = "default_address_column")]
    pub(super) address: String,
    /// The sender; default `mail.from` of the configuration.
    #[serde(default)]
    pub(super) from: Option<Templated<String>>,
    /// Where answers go, if not to the sender.
    #[serde(default)]
    pub(super) reply_to: Option<Templated<String>>,
    /// The subject; takes the place of the template's. It can name `person` and `reason`.
    #[serde(default)]
    pub(super) subject: Option<Templated<String>>,
    /// The name of a folder under `templates/email/`. It can name `person` (the columns that the query gives), `reason`
    /// (`mention` or `follow`), `run` and the `vars`.
    #[serde(default)]
    pub(super) template: Option<String>,
    /// The mail as plain text instead of a template; needs a `subject`. It can name `person` and `reason`, as in
    /// `Dear ${{ person.name }}`.
    #[serde(default)]
    pub(super) body: Option<Templated<String>>,
    /// The mail as HTML, beside `body` or instead of it. Values are escaped, unless they are marked by `safe_html`. It can name
    /// `person` and `reason`.
    #[serde(default)]
    pub(super) html: Option<Templated<String>>,
    /// What the template can name besides.
    #[serde(default)]
    pub(super) vars: Map<String, Value>,
}

/// A call for each person, by `POST`. Its fields can name `person` (the columns that the query gives) and `reason` (`mention`
/// or `follow`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// The address, such as `https://push.example.com/devices/${{ person.device }}` or `${{ person.hook_url }}`.
    /// Values in its path and query are percent-encoded.
    pub(super) url: Templated<String>,
    /// More headers, such as `Authorization: "Bearer ${{ secrets.TOKEN }}"`.
    #[serde(default)]
    pub(super) headers: RequestHeaders,
    /// The body.
    pub(super) json: Value,
    /// How the receiver can tell that the call is ours. Signed calls follow no redirect. One secret signs for all: a receiver
    /// who knows it could write to the others in our name.
    #[serde(default)]
    pub(super) sign: Option<SignatureScheme>,
}

fn default_address_column() -> String {
    "email".into()
}
