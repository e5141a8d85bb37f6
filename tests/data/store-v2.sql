PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA application_id=1380073812;
PRAGMA user_version=2;
BEGIN TRANSACTION;
CREATE TABLE feeds (
    name TEXT PRIMARY KEY,  -- the path of what `riskbatch send` reads
    taken INTEGER NOT NULL,  -- signals of it that are, or were, in the table above
    digest TEXT NOT NULL,  -- of the records up to there
    ended INTEGER NOT NULL  -- whether it was read to its end
);
INSERT INTO "feeds" VALUES('/var/spool/feed.jsonl',3,'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',1);
CREATE TABLE settled (
    settled_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,  -- the fields of the outcome, as JSON
    id INTEGER NOT NULL,
    ip TEXT NOT NULL,
    message TEXT,
    timestamp INTEGER NOT NULL,
    expires_at INTEGER,
    enqueued_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL
);
CREATE TABLE signals (
    id INTEGER PRIMARY KEY,  -- the level (0 HIGH, 1 MEDIUM, 2 LOW) times 2**60, plus the number of admission
    ip TEXT NOT NULL,
    message TEXT,
    timestamp INTEGER NOT NULL,  -- times are microseconds since 1970, UTC
    expires_at INTEGER,
    enqueued_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    may_have_arrived INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "signals" VALUES(1,'2001:db8::1','a message',1778979723456789,NULL,1795463171608421,0,0);
INSERT INTO "signals" VALUES(2305843009213693954,'10.0.0.1',NULL,1778979723456789,NULL,1795463171608421,0,0);
CREATE TABLE state (
    clean INTEGER NOT NULL,  -- whether the last owner closed the file
    suspect_until INTEGER NOT NULL  -- rows up to this number may have been in flight when an owner was killed
);
INSERT INTO "state" VALUES(1,0);
CREATE INDEX signals_by_expiry ON signals (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX settled_by_time ON settled (settled_at);
COMMIT;
