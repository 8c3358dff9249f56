//! The pipelines of the paths.

/// Rows go to a table without a key, so that a repeated insert is visible.
pub const PIPELINES: [(&str, &str); 14] = [
    (
        "upload",
        "name: upload\ntriggers: [{ type: s3, bucket: incoming, prefix: uploads/ }]\nparams: { file: { type: file } }\nsteps:\n  \
         - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: counted }, columns: { id: { type: integer } } } }\n",
    ),
    (
        "poll",
        "name: poll\ntriggers: [{ type: s3, bucket: foreign, prefix: in/, poll: 1s }]\nparams: { file: { type: file } }\nsteps:\n  \
         - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: counted }, columns: { id: { type: integer } } } }\n",
    ),
    (
        "request",
        "name: request\nparams: { file: { type: file } }\nsteps:\n  \
         - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: counted }, columns: { id: { type: integer } } } }\n",
    ),
    (
        "cron",
        "name: cron\ntriggers: [{ type: cron, schedule: \"0 0 1 1 *\", catch_up: all }]\nsteps:\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: \"${{ event.time }}\", body: tick } }\n",
    ),
    (
        "event",
        "name: event\ntriggers: [{ type: event, name: user.signed_in }]\nsteps:\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: \"${{ event.user }}\", body: hello } }\n",
    ),
    (
        "places",
        "name: places\nconcurrency: { limit: 1 }\nsteps:\n  - { id: wait, uses: wait, with: { event: order.accepted, timeout: 1h } }\n",
    ),
    (
        "items",
        "name: items\nparams: { to: { type: list } }\nsteps:\n  - id: mails\n    uses: email.send\n    \
         for_each: { items: \"${{ params.to }}\", max_concurrency: 2 }\n    \
         with: { to: \"${{ item }}\", subject: hello, body: hello }\n  \
         - { id: last, uses: email.send, with: { to: ops@example.com, subject: last, body: hello } }\n",
    ),
    (
        "cancel",
        "name: cancel\nsteps:\n  - { id: long, uses: wait, with: { for: 1h } }\nfinally:\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: cancelled, body: hello } }\n",
    ),
    (
        "batch",
        "name: batch\ntriggers:\n  - { type: event, name: row.changed, batch: { size: 2, within: 1h }, with: { n: \"${{ event.items | length }}\" } }\n\
         params: { n: { type: integer } }\nsteps:\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: \"${{ params.n }} rows\", body: hello } }\n",
    ),
    (
        "timeout",
        "name: timeout\ntimeout: 1h\nsteps:\n  - { id: long, uses: wait, with: { for: 1h } }\non_failure:\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: \"${{ run.error.code }}\", body: hello } }\n",
    ),
    (
        "retention",
        "name: retention\nparams: { file: { type: file } }\nretention: { artifacts: 1s, runs: 1s }\nsteps:\n  \
         - { id: check, uses: file.check, with: { source: \"${{ params.file }}\" } }\n",
    ),
    (
        "pause",
        "name: pause\nsteps:\n  - { id: mail, uses: email.send, with: { to: ops@example.com, subject: hello, body: hello } }\n",
    ),
    (
        "link",
        "name: link\nsteps:\n  - { id: make, uses: report.query, with: { connection: app, sql: SELECT 1 AS one, format: csv } }\n  \
         - { id: mail, uses: email.send, with: { to: ops@example.com, subject: link, body: here, links: { it: \"${{ steps.make.file }}\" } } }\n",
    ),
    // Its run fails until the table exists.
    (
        "retry",
        "name: retry\nparams: { file: { type: file } }\nsteps:\n  \
         - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: late }, columns: { email: { match: [E-mail] } } } }\n",
    ),
];
