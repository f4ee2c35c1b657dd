-- The agent's catalogue: its copy of what the repository and the intents say, and the history of jobs.
-- `details` holds the whole dictionary as JSON; the columns beside it are what is searched and read by others.

CREATE TABLE backup_records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        backup_id VARCHAR(36) UNIQUE NOT NULL,
        backup_name VARCHAR(255) NOT NULL,
        backup_type VARCHAR(50) NOT NULL,
        backup_size BIGINT NOT NULL,
        file_path VARCHAR(500) NOT NULL,
        status VARCHAR(20) NOT NULL,
        description TEXT,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        completed_at TIMESTAMP,
        checksum VARCHAR(64),
        created_by VARCHAR(50),
        metadata JSON,
        details JSON NOT NULL
);
CREATE INDEX backup_records_by_time ON backup_records (created_at DESC, id DESC);

-- The id is the job's number: AUTOINCREMENT never gives one twice, also when old rows have gone.
CREATE TABLE backup_tasks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task_id VARCHAR(36) UNIQUE NOT NULL,
        backup_id VARCHAR(36) REFERENCES backup_records (backup_id) ON DELETE SET NULL,
        task_type VARCHAR(50) NOT NULL,
        status VARCHAR(20) NOT NULL,
        progress INTEGER DEFAULT 0,
        started_at TIMESTAMP,
        completed_at TIMESTAMP,
        error_message TEXT,
        details JSON NOT NULL
);
CREATE INDEX backup_tasks_by_backup ON backup_tasks (backup_id);
CREATE INDEX backup_tasks_by_end ON backup_tasks (task_type, completed_at);

CREATE TABLE backup_schedules (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        schedule_name VARCHAR(255) NOT NULL,
        enabled BOOLEAN DEFAULT TRUE,
        frequency VARCHAR(20) NOT NULL,
        schedule_time VARCHAR(10) NOT NULL,
        backup_type VARCHAR(50) NOT NULL,
        retention_days INTEGER DEFAULT 30,
        last_run TIMESTAMP,
        next_run TIMESTAMP,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX backup_schedules_by_name ON backup_schedules (schedule_name);

-- No reference to backup_records: a restore outlives the deletion of its backup.
CREATE TABLE backup_restores (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        restore_id VARCHAR(36) UNIQUE NOT NULL,
        backup_id VARCHAR(36) NOT NULL,
        state VARCHAR(20) NOT NULL,
        created_at TIMESTAMP NOT NULL,
        completed_at TIMESTAMP,
        details JSON NOT NULL
);
CREATE INDEX backup_restores_by_time ON backup_restores (created_at DESC, id DESC);
