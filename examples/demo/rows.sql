-- The application as `afterload demo` finds it, in SQLite. All of it is invented.
DELETE FROM accounts;
DELETE FROM account_events;
INSERT INTO accounts VALUES (1, 'ada@example.com'), (2, 'bob@example.com');
INSERT INTO account_events
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20500)
SELECT x, CASE WHEN x % 41 = 0 THEN 2 ELSE 1 END, 'page viewed' FROM c;

DELETE FROM orders;
DELETE FROM sign_ins;
DELETE FROM tweets;
DELETE FROM timelines;

DELETE FROM users;
DELETE FROM follows;
INSERT INTO users VALUES (1, 'ada', 'ada@example.com'), (2, 'bob', 'bob@example.com'), (3, 'zoë', 'zoe@example.com');
INSERT INTO users
WITH RECURSIVE c(x) AS (SELECT 4 UNION ALL SELECT x + 1 FROM c WHERE x < 5002)
SELECT x, 'reader' || x, NULL FROM c;
INSERT INTO follows SELECT 1, id FROM users WHERE id NOT IN (1, 3);

DELETE FROM sales;
INSERT INTO sales
WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < 999)
SELECT x, date('2026-01-01', '+' || (x / 8) || ' days'), substr('DEFRITES', 1 + 2 * (x % 4), 2),
       CASE x % 3 WHEN 0 THEN 'Tea' WHEN 1 THEN 'Coffee' ELSE 'Cake' END, 1 + x % 5, (1 + x % 5) * (3.5 + x % 3)
FROM c;
