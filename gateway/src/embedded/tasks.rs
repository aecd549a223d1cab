//! The tasks extension of the modern era (`io.modelcontextprotocol/tasks`).
//!
//! A task is computed, not run: its state follows from when it was made, how long
//! it takes, what was answered and whether it was cancelled. So no timer is needed
//! and nothing runs when nobody looks.
//!
//! Invariant: a task lives on the shard that made it; its id names that shard and
//! carries a mark, so ids cannot be guessed.
//! Limits: [`TASKS_MAX`] per shard, each kept [`TASK_KEPT_MS`] after its end.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::ProtocolVersion;

use super::answers::{Fault, finish, put, put_number, put_string, put_tool_text};
use super::dialogue::{Answer, Question, Script, deletion};
use super::input_required::{StateSeal, equal_in_constant_time, write_requests};
use super::scan;
use super::siblings::TaskMethod;

/// Tasks kept per shard.
pub const TASKS_MAX: usize = 4_096;

/// How long a task is kept after its time is over.
pub const TASK_KEPT_MS: u64 = 600_000;

/// How often a client should ask for news.
const POLL_INTERVAL_MS: u64 = 500;

/// The time of jobs that do not say how long they take.
const JOB_MS: u64 = 1_000;

/// What a task does.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Takes its time.
    Compute { seconds: u64, label: String },
    /// Ends in a tool error.
    Failing,
    /// Ends in a protocol error.
    Broken,
    /// Asks, then pretends to delete.
    Delete { filename: String },
    /// Asks two things at once.
    TwoInputs,
    /// Greets after the dialogue that led here.
    Greet { name: String },
}

impl Job {
    fn lasts_ms(&self) -> u64 {
        match self {
            Job::Compute { seconds, .. } => seconds * 1_000,
            Job::Failing | Job::Broken => JOB_MS,
            Job::Delete { .. } | Job::TwoInputs | Job::Greet { .. } => 0,
        }
    }

    fn questions(&self) -> Vec<Question> {
        match self {
            Job::Delete { filename } => Script::ConfirmDelete.questions(0, filename, MODERN),
            Job::TwoInputs => Script::MultiInput.questions(0, "", MODERN),
            Job::Compute { .. } | Job::Failing | Job::Broken | Job::Greet { .. } => Vec::new(),
        }
    }

    /// Appends the members of the task's `CallToolResult`.
    fn put_result(&self, answers: &[Answer], out: &mut Vec<u8>) {
        let text = match self {
            Job::Compute { seconds, label } => computed_text(*seconds, label),
            Job::Failing => return put_tool_text(out, FAILING_TEXT, true),
            Job::Broken => String::new(),
            Job::Delete { filename } => deletion(filename, answers.first()),
            Job::TwoInputs => answers.iter().map(Answer::describe).collect::<Vec<_>>().join("; "),
            Job::Greet { name } => format!("Hello, {name}!"),
        };
        put_tool_text(out, &text, false);
    }
}

const MODERN: ProtocolVersion = ProtocolVersion::V2026_07_28;

/// The text of the job that fails.
pub(super) const FAILING_TEXT: &str = "This job always fails.";

/// The text of a finished computation.
pub(super) fn computed_text(seconds: u64, label: &str) -> String {
    format!("Computed {label:?} in {seconds} s.")
}

#[derive(Debug)]
struct Task {
    job: Job,
    created: Millis,
    updated: Millis,
    /// When the work is done, if nothing is asked any more.
    due: Millis,
    cancelled: bool,
    open: Vec<Question>,
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Working => "working",
            Status::InputRequired => "input_required",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

impl Task {
    fn status(&self, now: Millis) -> Status {
        if self.cancelled {
            Status::Cancelled
        } else if !self.open.is_empty() {
            Status::InputRequired
        } else if now < self.due {
            Status::Working
        } else if matches!(self.job, Job::Broken) {
            Status::Failed
        } else {
            Status::Completed
        }
    }

    fn ttl_ms(&self) -> u64 {
        self.job.lasts_ms() + TASK_KEPT_MS
    }

    fn is_expired(&self, now: Millis) -> bool {
        now.since(self.created) > self.ttl_ms()
    }

    /// Takes answers in; unknown keys are ignored. Nothing is kept if one is wrong.
    fn answer(&mut self, responses: &[u8], now: Millis) -> Result<(), Fault> {
        let mut answered = Vec::new();
        for question in &self.open {
            if let Some(response) = scan::member(responses, question.key) {
                answered.push((question.key, question.read(response)?));
            }
        }
        for (key, answer) in answered {
            self.open.retain(|question| question.key != key);
            self.answers.push(answer);
            self.updated = now;
            self.due = now;
        }
        Ok(())
    }
}

/// The parts of a task id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId {
    /// The shard the task lives on.
    pub(super) shard: u16,
    /// Its number there.
    pub(super) number: u64,
}

/// All tasks of a shard.
pub(super) struct Tasks {
    shard: u16,
    /// The process's start, Unix time in ms: ids of an earlier life are unknown.
    start_unix_ms: u64,
    seal: StateSeal,
    made: u64,
    tasks: BTreeMap<u64, Task>,
}

impl Tasks {
    pub(super) fn new(shard: u16, start_unix_ms: u64, seal: StateSeal) -> Tasks {
        Tasks { shard, start_unix_ms, seal, made: 0, tasks: BTreeMap::new() }
    }

    /// Makes a task and returns its number here.
    pub(super) fn create(&mut self, job: Job, now: Millis) -> Result<u64, Fault> {
        if self.tasks.len() >= TASKS_MAX {
            self.tasks.retain(|_, task| !task.is_expired(now));
        }
        if self.tasks.len() >= TASKS_MAX {
            return Err(Fault::Busy { what: "too many tasks", max: TASKS_MAX });
        }
        self.made += 1;
        let due = now + job.lasts_ms();
        let open = job.questions();
        let answers = Vec::new();
        let task = Task { job, created: now, updated: now, due, cancelled: false, open, answers };
        self.tasks.insert(self.made, task);
        Ok(self.made)
    }

    /// Appends the `CreateTaskResult` of a task just made.
    pub(super) fn write_created(&self, number: u64, now: Millis, out: &mut Vec<u8>) {
        put(out, r#"{"resultType":"task","#);
        self.put_task(number, &self.tasks[&number], now, out);
        super::answers::put_modern_meta(out);
        put(out, "}");
    }

    /// Reads an id that one of our shards gave out in this life of the process.
    pub(super) fn parse_id(&self, text: &str) -> Option<TaskId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mark) = bytes.split_at_checked(ID_BODY_BYTES)?;
        if !equal_in_constant_time(mark, &self.seal.short_mark("task", body)) {
            return None;
        }
        let (shard, rest) = body.split_first_chunk()?;
        let (start, rest) = rest.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        (u64::from_be_bytes(*start) == self.start_unix_ms).then_some(TaskId {
            shard: u16::from_be_bytes(*shard),
            number: u64::from_be_bytes(*number),
        })
    }

    /// Does what `method` wants with a task of this shard and appends the result object.
    pub(super) fn perform(
        &mut self,
        method: TaskMethod,
        number: u64,
        responses: &[u8],
        now: Millis,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Some(task) = self.tasks.get_mut(&number).filter(|task| !task.is_expired(now)) else {
            return Err(unknown_task());
        };
        put(out, "{");
        match method {
            TaskMethod::Get => {
                let task = &self.tasks[&number];
                self.put_detailed(number, task, now, out);
            }
            TaskMethod::Update => task.answer(responses, now)?,
            TaskMethod::Cancel => {
                if matches!(task.status(now), Status::Working | Status::InputRequired) {
                    task.cancelled = true;
                    task.updated = now;
                }
            }
        }
        finish(out, MODERN, None);
        Ok(())
    }

    fn put_detailed(&self, number: u64, task: &Task, now: Millis, out: &mut Vec<u8>) {
        self.put_task(number, task, now, out);
        match task.status(now) {
            Status::Working | Status::Cancelled => {}
            Status::InputRequired => {
                put(out, r#","inputRequests":{"#);
                write_requests(task.open.iter().map(|question| (question.key, question)), out);
                put(out, "}");
            }
            Status::Completed => {
                put(out, r#","result":{"#);
                task.job.put_result(&task.answers, out);
                put(out, r#","resultType":"complete"}"#);
            }
            Status::Failed => {
                put(out, r#","error":"#);
                Fault::Internal(BROKEN_TEXT).write(out);
            }
        }
    }

    fn put_task(&self, number: u64, task: &Task, now: Millis, out: &mut Vec<u8>) {
        put(out, r#""taskId":"#);
        put_string(out, &self.write_id(number));
        put(out, r#","status":""#);
        put(out, task.status(now).as_str());
        put(out, r#"","createdAt":""#);
        put(out, &iso_8601(self.start_unix_ms + task.created.0));
        put(out, r#"","lastUpdatedAt":""#);
        // A computed task reaches its end by itself.
        let ended = !task.cancelled && task.open.is_empty() && now >= task.due;
        let updated = if ended { task.due.max(task.updated) } else { task.updated };
        put(out, &iso_8601(self.start_unix_ms + updated.0));
        put(out, r#"","ttlMs":"#);
        put_number(out, task.ttl_ms());
        put(out, r#","pollIntervalMs":"#);
        put_number(out, POLL_INTERVAL_MS);
    }

    fn write_id(&self, number: u64) -> String {
        let mut bytes = Vec::with_capacity(ID_BODY_BYTES + 8);
        bytes.extend_from_slice(&self.shard.to_be_bytes());
        bytes.extend_from_slice(&self.start_unix_ms.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        let mark = self.seal.short_mark("task", &bytes);
        bytes.extend_from_slice(&mark);
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

const ID_BODY_BYTES: usize = 2 + 8 + 8;

/// What the broken job ends with.
pub(super) const BROKEN_TEXT: &str = "this job breaks the protocol on purpose";

/// The refusal of an id that leads nowhere.
pub(super) fn unknown_task() -> Fault {
    Fault::InvalidParams("params.taskId names no task of this server".to_owned())
}

/// A Unix time in UTC as ISO 8601 with milliseconds.
pub(crate) fn iso_8601(unix_ms: u64) -> String {
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days are counted from 1 March of year 0 in years that start in March, so the
    // leap day comes last: 400 years have 146,097 days, of which 719,468 lie before 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (seconds, ms) = (ms_of_day / 1_000, ms_of_day % 1_000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (1_795_258_096_007, "2026-11-21T10:48:16.007Z"),
        ] {
            assert_eq!(iso_8601(unix_ms), text);
        }
    }

    #[test]
    fn ids_are_bound_to_shard_life_and_key() {
        let seal = StateSeal::new([7; 16]);
        let tasks = Tasks::new(3, 1_000, seal);
        let id = tasks.write_id(9);
        assert_eq!(tasks.parse_id(&id), Some(TaskId { shard: 3, number: 9 }));
        assert_eq!(Tasks::new(0, 1_000, seal).parse_id(&id), Some(TaskId { shard: 3, number: 9 }));
        assert_eq!(Tasks::new(3, 1_001, seal).parse_id(&id), None);
        assert_eq!(Tasks::new(3, 1_000, StateSeal::new([8; 16])).parse_id(&id), None);
        for wrong in ["", "tasks-conformance-nonexistent-12345", "AAAA"] {
            assert_eq!(tasks.parse_id(wrong), None);
        }
    }

    #[test]
    fn a_full_table_makes_room_of_expired_tasks_only() {
        let mut tasks = Tasks::new(0, 0, StateSeal::new([0; 16]));
        let greet = || Job::Greet { name: String::new() };
        for _ in 0..TASKS_MAX {
            tasks.create(greet(), Millis(0)).expect("room");
        }
        assert!(tasks.create(greet(), Millis(TASK_KEPT_MS)).is_err());
        assert!(tasks.create(greet(), Millis(TASK_KEPT_MS + 1)).is_ok());
    }
}
