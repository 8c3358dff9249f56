//! Rows that the database refuses: any rule, any type, any trigger. The row is rejected with its line, the column and
//! plain words, and the others are imported. All cases of a database share it.

use serde_json::{Map, Value, json};

use super::bench::{BOTH, Bench, Db, Memory, spec};

/// A table, a file for it, and what becomes of the file.
struct Case {
    table: &'static str,
    ddl: &'static str,
    file: &'static str,
    /// Rows, inserted, updated, skipped, rejected.
    counts: [u64; 5],
    /// The rejected rows: number, column, code, and a part of the message.
    rejects: &'static [(u64, &'static str, &'static str, &'static str)],
}

/// Imports all columns of the file into the columns of the same names.
fn with(table: &str, file: &str, extra: Value) -> Value {
    let header = file.lines().next().unwrap();
    let columns = header.split([',', ';']).map(|name| (name.to_owned(), json!({}))).collect::<Map<_, _>>();
    let mut with = json!({ "into": { "table": table }, "columns": columns });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    with
}

async fn check(bench: &Bench, case: &Case) {
    bench.execute_all(case.ddl).await;
    let spec = spec(with(case.table, case.file, json!({})));
    let done = bench.import_anew(&spec, &Memory::new(case.file)).await.unwrap();
    assert_eq!(done.counts(), case.counts, "{}: {}", case.table, done.errors);
    let expected = case.rejects.iter().map(|(row, column, code, _)| (*row, (*column).to_owned(), (*code).to_owned()));
    assert_eq!(done.codes(), expected.collect::<Vec<_>>(), "{}: {}", case.table, done.errors);
    for ((.., words), message) in case.rejects.iter().zip(done.messages()) {
        assert!(message.contains(words), "{}: {message}", case.table);
    }
}

const TREE: &str =
    "id,parent,email\n1,2,u1\n2,3,u2\n3,4,u3\n4,5,u4\n5,6,u5\n6,7,u6\n7,8,u7\n8,9,u8\n9,10,u9\n10,,u10\n11,,u10\n";

/// Rules that both databases have.
const SHARED: &[Case] = &[
    Case {
        table: "plain_dup",
        ddl: "CREATE TABLE plain_dup (email TEXT UNIQUE, name TEXT)",
        file: "email,name\na@example.org,1\na@example.org,2\nb@example.org,3\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(2, "email", "conflict", "a row with the `email` `a@example.org` is already there")],
    },
    Case {
        table: "pair_dup",
        ddl: "CREATE TABLE pair_dup (a TEXT, b INTEGER, UNIQUE (a, b))",
        file: "a,b\nx,1\nx,2\nx,1\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(3, "", "conflict", "a row with the same `a`, `b` is already there")],
    },
    Case {
        table: "expression_dup",
        ddl: "CREATE TABLE expression_dup (email TEXT);;CREATE UNIQUE INDEX expression_dup_key ON expression_dup (lower(email))",
        file: "email\nA@x\na@x\n",
        counts: [2, 1, 0, 0, 1],
        rejects: &[(2, "email", "conflict", "a row with the `email` `a@x` is already there")],
    },
    Case {
        table: "books",
        ddl: "CREATE TABLE authors (id INTEGER PRIMARY KEY);;INSERT INTO authors VALUES (1);;\
              CREATE TABLE books (title TEXT, author INTEGER REFERENCES authors (id))",
        file: "title,author\nA,1\nB,99\nC,\nD,1\n",
        counts: [4, 3, 0, 0, 1],
        rejects: &[(2, "author", "reference_missing", "no row of `authors` has the `id` `99`")],
    },
    Case {
        table: "tree",
        ddl: "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES tree (id), email TEXT UNIQUE)",
        file: TREE,
        counts: [11, 10, 0, 0, 1],
        rejects: &[(11, "email", "conflict", "`u10`")],
    },
    Case {
        table: "deferred",
        ddl: "CREATE TABLE deferred (id INTEGER PRIMARY KEY, name TEXT, \
              parent INTEGER REFERENCES deferred (id) DEFERRABLE INITIALLY DEFERRED)",
        file: "id,name,parent\n2,child,1\n1,root,\n3,leaf,2\n4,bad,99\n",
        counts: [4, 3, 0, 0, 1],
        rejects: &[(4, "parent", "reference_missing", "no row of `deferred` has the `id` `99`")],
    },
    Case {
        table: "circles",
        ddl: "CREATE TABLE circles (id INTEGER PRIMARY KEY, next INTEGER REFERENCES circles (id), n INTEGER CHECK (n <> 13))",
        file: "id,next,n\n1,2,0\n2,1,0\n3,,13\n4,3,0\n5,6,0\n6,5,13\n7,1,0\n",
        counts: [7, 3, 0, 0, 4],
        rejects: &[
            (3, "n", "database_refused", "`13` breaks the check constraint"),
            (4, "next", "reference_missing", "no row of `circles` has the `id` `3`"),
            (5, "", "database_refused", "in a circle"),
            (6, "", "database_refused", "in a circle"),
        ],
    },
];

const ONLY_SQLITE: &[Case] = &[
    Case {
        table: "raised",
        ddl: "CREATE TABLE raised (n INTEGER);;CREATE TABLE raised_log (n INTEGER);;\
              CREATE TRIGGER raised_two BEFORE INSERT ON raised BEGIN \
              INSERT INTO raised_log VALUES (new.n); SELECT RAISE(FAIL, 'two is not allowed') WHERE new.n = 2; END",
        file: "n\n1\n2\n3\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(2, "", "database_refused", "two is not allowed")],
    },
    Case {
        table: "docs",
        ddl: "CREATE TABLE docs (doc TEXT);;CREATE INDEX docs_a ON docs (json_extract(doc, '$.a'))",
        file: "doc\n{}\nbad\n[]\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(2, "", "database_refused", "malformed JSON")],
    },
    Case {
        table: "shown",
        ddl: "CREATE TABLE base (a TEXT, b TEXT);;CREATE VIEW shown AS SELECT * FROM base;;\
              CREATE TRIGGER shown_insert INSTEAD OF INSERT ON shown BEGIN INSERT INTO base VALUES (new.a, new.b); END",
        file: "a,b\n1,x\n2,y\n",
        counts: [2, 2, 0, 0, 0],
        rejects: &[],
    },
];

const ONLY_POSTGRES: &[Case] = &[
    Case {
        table: "labels",
        ddl: "CREATE EXTENSION IF NOT EXISTS hstore;;CREATE TABLE labels (h hstore)",
        file: "h\na=>1\nb=>2\nbad>\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(3, "h", "database_refused", "")],
    },
    Case {
        table: "typed",
        ddl: "CREATE DOMAIN short AS TEXT CHECK (length(VALUE) < 4);;CREATE TYPE mood AS ENUM ('happy', 'sad');;\
              CREATE TABLE typed (at INET, code short, amount NUMERIC(4, 2), doc JSONB, feels mood, kind REGCLASS)",
        file: "at;code;amount;doc;feels;kind\n10.0.0.1;abc;99.99;{};happy;pg_class\n10.0.0.x;;;;;\n;abcd;;;;\n;;100;;;\n\
               ;;;\"{\"\"a\"\":\"\"\\u0000\"\"}\";;\n;;;;odd;\n;;;;;no_such_table\n;;;;sad;\n",
        counts: [8, 2, 0, 0, 6],
        rejects: &[
            (2, "at", "database_refused", "inet"),
            (3, "code", "database_refused", "`abcd` breaks the check constraint `short_check`"),
            (4, "amount", "database_refused", "overflow"),
            (5, "doc", "database_refused", ""),
            (6, "feels", "database_refused", "odd"),
            (7, "kind", "database_refused", "no_such_table"),
        ],
    },
    Case {
        table: "raised",
        ddl: "CREATE TABLE raised (n int);;\
              CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
              IF NEW.n = 2 THEN RAISE EXCEPTION 'two is not allowed' USING ERRCODE = 'ZZ001'; END IF; \
              IF NEW.n = 4 THEN ASSERT false, 'four is odd'; END IF; RETURN NEW; END $$;;\
              CREATE TRIGGER raised_two BEFORE INSERT ON raised FOR EACH ROW EXECUTE FUNCTION refuse()",
        file: "n\n1\n2\n3\n4\n5\n",
        counts: [5, 3, 0, 0, 2],
        rejects: &[(2, "", "database_refused", "two is not allowed"), (4, "", "database_refused", "four is odd")],
    },
    Case {
        table: "identity_bad",
        ddl: "CREATE TABLE identity_bad (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)",
        file: "id,name\n5,A\n6,B\n6,C\n7,D\n",
        counts: [4, 3, 0, 0, 1],
        rejects: &[(3, "id", "conflict", "a row with the `id` `6` is already there")],
    },
    Case {
        table: "identity_good",
        ddl: "CREATE TABLE identity_good (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)",
        file: "id,name\n5,A\n6,B\n7,D\n",
        counts: [3, 3, 0, 0, 0],
        rejects: &[],
    },
    Case {
        table: "bookings",
        ddl: "CREATE TABLE bookings (during int4range, CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&))",
        file: "during\n\"[1,3)\"\n\"[2,5)\"\n\"[3,4)\"\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(2, "during", "conflict", "`no_overlap`")],
    },
    Case {
        table: "parts",
        ddl: "CREATE TABLE parts (n int PRIMARY KEY) PARTITION BY RANGE (n);;\
              CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        file: "n\n1\n20\n1\n2\n",
        counts: [4, 2, 0, 0, 2],
        rejects: &[
            (2, "", "database_refused", "partition"),
            (3, "n", "conflict", "a row with the `n` `1` is already there"),
        ],
    },
    Case {
        table: "shown",
        ddl: "CREATE TABLE base (a text, b text CHECK (b <> 'z'));;CREATE VIEW shown AS SELECT * FROM base;;\
              CREATE FUNCTION show_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
              INSERT INTO base VALUES (NEW.a, NEW.b); RETURN NEW; END $$;;\
              CREATE TRIGGER shown_insert INSTEAD OF INSERT ON shown FOR EACH ROW EXECUTE FUNCTION show_it()",
        file: "a,b\n1,x\n2,z\n3,y\n",
        counts: [3, 2, 0, 0, 1],
        rejects: &[(2, "", "database_refused", "base_b_check")],
    },
    Case {
        table: "simple_view",
        ddl: "CREATE VIEW simple_view AS SELECT a FROM base WHERE a <> 'no' WITH CHECK OPTION",
        file: "a\nyes\nno\n",
        counts: [2, 1, 0, 0, 1],
        rejects: &[(2, "", "database_refused", "check option")],
    },
];

#[tokio::test]
async fn refused_rows_are_rejected_with_line_column_and_plain_words() {
    for db in BOTH {
        let bench = Bench::new(db, "").await;
        let own = if db == Db::Sqlite { ONLY_SQLITE } else { ONLY_POSTGRES };
        for case in SHARED.iter().chain(own) {
            check(&bench, case).await;
        }
        if db == Db::Sqlite {
            assert_eq!(bench.rows("raised_log", &["n"]).await, ["1", "3"], "a refused row leaves nothing behind");
        } else {
            assert_eq!(bench.rows("identity_bad", &["id", "name"]).await, ["5|A", "6|B", "7|D"]);
        }
        assert_eq!(bench.rows("circles", &["id"]).await, ["1", "2", "7"]);
    }
}

/// Where PL/pgSQL is missing, ranges of rows are tried. The results are the same.
#[tokio::test]
async fn refused_rows_are_rejected_without_plpgsql() {
    let bench = Bench::new(Db::Postgres, "DROP EXTENSION plpgsql").await;
    for case in SHARED {
        check(&bench, case).await;
    }
}

#[tokio::test]
async fn partial_and_expression_indexes_can_be_the_key() {
    let tables = "CREATE TABLE partial (email TEXT, name TEXT, deleted_at TEXT);;\
                  CREATE UNIQUE INDEX partial_key ON partial (email) WHERE deleted_at IS NULL;;\
                  CREATE TABLE lowered (email TEXT, name TEXT);;CREATE UNIQUE INDEX lowered_key ON lowered (lower(email));;\
                  CREATE TABLE unclear (email TEXT, name TEXT);;\
                  CREATE UNIQUE INDEX unclear_1 ON unclear (email) WHERE name = 'a';;\
                  CREATE UNIQUE INDEX unclear_2 ON unclear (email) WHERE name = 'b'";
    let keys = |action: &str, table: &str| json!({ "into": { "table": table, "on_conflict": { "keys": ["email"], "action": action } } });
    let file = "email,name\na@example.org,1\nA@example.org,2\na@example.org,3\n";
    for db in BOTH {
        for (action, partial, lowered, rows) in [
            ("update", [3, 2, 1, 0, 0], [3, 1, 2, 0, 0], ["A@example.org|2", "a@example.org|3", "a@example.org|old"]),
            ("skip", [3, 2, 0, 1, 0], [3, 1, 0, 2, 0], ["A@example.org|2", "a@example.org|1", "a@example.org|old"]),
            ("reject", [3, 2, 0, 0, 1], [3, 1, 0, 0, 2], ["A@example.org|2", "a@example.org|1", "a@example.org|old"]),
        ] {
            let bench = Bench::new(db, tables).await;
            bench.execute("INSERT INTO partial VALUES ('a@example.org', 'old', 'gone')").await;
            let import = async |table: &str| {
                let spec = spec(with(table, file, keys(action, table)));
                bench.import_anew(&spec, &Memory::new(file)).await
            };
            assert_eq!(import("partial").await.unwrap().counts(), partial, "{db:?} {action}");
            let found = bench.rows("partial", &["email", "name"]).await;
            let sorted = |mut rows: Vec<String>| {
                rows.sort();
                rows
            };
            assert_eq!(sorted(found), sorted(rows.map(str::to_owned).to_vec()), "{db:?} {action}");
            assert_eq!(import("lowered").await.unwrap().counts(), lowered, "{db:?} {action}");
            let error = import("unclear").await.err().unwrap();
            assert_eq!(error.code().name(), "conflict_keys_not_unique");
        }
    }
}

#[tokio::test]
async fn every_row_of_a_repeated_key_is_checked() {
    let table = "CREATE TABLE stock (sku TEXT PRIMARY KEY, count INTEGER CHECK (count >= 0))";
    let file = "sku,count\na,-1\na,2\nb,3\na,4\nb,-5\n";
    let keys = json!({ "into": { "table": "stock", "on_conflict": { "keys": ["sku"], "action": "update" } } });
    for db in BOTH {
        let bench = Bench::new(db, table).await;
        let done = bench.import(&spec(with("stock", file, keys.clone())), &Memory::new(file)).await.unwrap();
        assert_eq!(done.counts(), [5, 2, 1, 0, 2], "{}", done.errors);
        let refused = |row| (row, "count".to_owned(), "database_refused".to_owned());
        assert_eq!(done.codes(), [refused(1), refused(5)]);
        assert_eq!(bench.rows("stock", &["sku", "count"]).await, ["a|4", "b|3"]);
    }
}

#[tokio::test]
async fn column_that_needs_a_value_is_reported_before_the_first_row() {
    for db in BOTH {
        let bench =
            Bench::new(db, "CREATE TABLE t (name TEXT, status TEXT NOT NULL, kind TEXT NOT NULL DEFAULT 'x')").await;
        let error =
            bench.import(&spec(with("t", "name\nA\n", json!({}))), &Memory::new("name\nA\n")).await.err().unwrap();
        assert_eq!(error.code().name(), "column_required", "{error}");
        assert!(error.message().contains("`status` of table `"), "{error}");
        let mut filled = with("t", "name\nA\n", json!({}));
        filled["columns"]["status"] = json!({ "default": "new" });
        assert_eq!(bench.import_anew(&spec(filled), &Memory::new("name\nA\n")).await.unwrap().counts()[1], 1);
    }
}

/// What a policy forbids is the fault of a row. A missing right is not.
#[tokio::test]
async fn policies_reject_rows_and_missing_rights_end_the_import() {
    let tables = "CREATE TABLE notes (owner text, body text);;ALTER TABLE notes ENABLE ROW LEVEL SECURITY;;\
        CREATE POLICY own ON notes USING (owner = 'me');;CREATE TABLE closed (owner text);;\
        DO $$ BEGIN EXECUTE format('CREATE ROLE %1$I; GRANT ALL ON notes TO %1$I; \
        GRANT ALL ON SCHEMA public TO %1$I; ALTER DATABASE %2$I SET role TO %1$I', \
        'role_of_' || current_database(), current_database()); END $$";
    let mut bench = Bench::new(Db::Postgres, tables).await;
    // Sessions from now on have the role.
    let url = bench.url.clone();
    bench.reconnect(&url).await;
    let file = "owner,body\nme,1\nyou,2\nme,3\n";
    let done = bench.import(&spec(with("notes", file, json!({}))), &Memory::new(file)).await.unwrap();
    assert_eq!(done.counts(), [3, 2, 0, 0, 1], "{}", done.errors);
    assert_eq!(done.codes(), [(2, String::new(), "database_refused".to_owned())]);
    assert!(done.messages()[0].contains("policy"), "{}", done.errors);
    let closed = "owner\nme\n";
    let error = bench.import_anew(&spec(with("closed", closed, json!({}))), &Memory::new(closed)).await.err().unwrap();
    assert_eq!((error.code().name(), error.is_transient()), ("database_error", false), "{error}");
}
