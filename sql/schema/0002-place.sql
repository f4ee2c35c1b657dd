-- Where a backup stands among the others: its time, but not before what there was when it was asked for.
-- So a clock that is set back does not make an old backup the newest.

ALTER TABLE backup_records ADD COLUMN place TIMESTAMP NOT NULL DEFAULT '';
UPDATE backup_records SET place = created_at;
DROP INDEX backup_records_by_time;
CREATE INDEX backup_records_by_place ON backup_records (place DESC, id DESC);
