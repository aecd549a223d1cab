//! What the instances on other shards are told, as bytes.
//!
//! Changes are told as how many there were, not as the counter's new value: two shards
//! that change the same thing in the same moment must not take the one change for the
//! other. So each message has to arrive once, which the mesh sees to.

/// What a change counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// Changes of the tool list.
    Tools,
    /// Changes of the prompt list.
    Prompts,
    /// Changes of the resource list.
    Resources,
    /// Updates of the watched resource.
    Watched,
}

impl Counter {
    pub(super) const ALL: [Counter; 4] =
        [Counter::Tools, Counter::Prompts, Counter::Resources, Counter::Watched];
}

/// What is done with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskMethod {
    Get,
    Update,
    Cancel,
}

impl TaskMethod {
    const ALL: [TaskMethod; 3] = [TaskMethod::Get, TaskMethod::Update, TaskMethod::Cancel];

    /// The method with this name.
    pub(super) fn parse(method: &str) -> Option<TaskMethod> {
        match method {
            "tasks/get" => Some(TaskMethod::Get),
            "tasks/update" => Some(TaskMethod::Update),
            "tasks/cancel" => Some(TaskMethod::Cancel),
            _ => None,
        }
    }
}

/// One message between instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiblingMessage<'a> {
    /// Something has changed so many times somewhere.
    Changed { counter: Counter, times: u64 },
    /// A call about a task that lives on shard `to`.
    TaskCall { from: u16, to: u16, call: u64, method: TaskMethod, task: u64, responses: &'a [u8] },
    /// Its answer: an error code, or zero and a result.
    TaskAnswer { to: u16, call: u64, code: i32, body: &'a [u8] },
}

const CHANGED: u8 = 1;
const TASK_CALL: u8 = 2;
const TASK_ANSWER: u8 = 3;

impl<'a> SiblingMessage<'a> {
    /// Appends the message.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            SiblingMessage::Changed { counter, times } => {
                out.extend_from_slice(&[CHANGED, counter as u8]);
                out.extend_from_slice(&times.to_be_bytes());
            }
            SiblingMessage::TaskCall { from, to, call, method, task, responses } => {
                out.extend_from_slice(&[TASK_CALL, method as u8]);
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&to.to_be_bytes());
                out.extend_from_slice(&call.to_be_bytes());
                out.extend_from_slice(&task.to_be_bytes());
                out.extend_from_slice(responses);
            }
            SiblingMessage::TaskAnswer { to, call, code, body } => {
                out.push(TASK_ANSWER);
                out.extend_from_slice(&to.to_be_bytes());
                out.extend_from_slice(&call.to_be_bytes());
                out.extend_from_slice(&code.to_be_bytes());
                out.extend_from_slice(body);
            }
        }
    }

    /// Reads a message; `None` if it is none (an older or newer build's).
    pub(super) fn read(bytes: &'a [u8]) -> Option<SiblingMessage<'a>> {
        let (tag, rest) = bytes.split_first()?;
        match *tag {
            CHANGED => {
                let (counter, rest) = rest.split_first()?;
                let (times, _) = rest.split_first_chunk()?;
                Some(SiblingMessage::Changed {
                    counter: *Counter::ALL.get(usize::from(*counter))?,
                    times: u64::from_be_bytes(*times),
                })
            }
            TASK_CALL => {
                let (method, rest) = rest.split_first()?;
                let (from, rest) = rest.split_first_chunk()?;
                let (to, rest) = rest.split_first_chunk()?;
                let (call, rest) = rest.split_first_chunk()?;
                let (task, responses) = rest.split_first_chunk()?;
                Some(SiblingMessage::TaskCall {
                    from: u16::from_be_bytes(*from),
                    to: u16::from_be_bytes(*to),
                    call: u64::from_be_bytes(*call),
                    method: *TaskMethod::ALL.get(usize::from(*method))?,
                    task: u64::from_be_bytes(*task),
                    responses,
                })
            }
            TASK_ANSWER => {
                let (to, rest) = rest.split_first_chunk()?;
                let (call, rest) = rest.split_first_chunk()?;
                let (code, body) = rest.split_first_chunk()?;
                Some(SiblingMessage::TaskAnswer {
                    to: u16::from_be_bytes(*to),
                    call: u64::from_be_bytes(*call),
                    code: i32::from_be_bytes(*code),
                    body,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_whole_and_cut_ones_are_refused() {
        let messages = [
            SiblingMessage::Changed { counter: Counter::Watched, times: u64::MAX - 1 },
            SiblingMessage::TaskCall {
                from: 1,
                to: 2,
                call: 3,
                method: TaskMethod::Cancel,
                task: 4,
                responses: b"",
            },
            SiblingMessage::TaskAnswer { to: 1, call: 2, code: -32602, body: b"" },
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            assert_eq!(SiblingMessage::read(&bytes), Some(message));
            for cut in 0..bytes.len() {
                assert_eq!(SiblingMessage::read(&bytes[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(SiblingMessage::read(&[9, 9]), None);
    }
}
