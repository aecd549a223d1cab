//! Asking the client: a dialogue's questions go out and its answers come in.
//!
//! Legacy: server requests on the call's stream. Modern: an `input_required`
//! result, and the client calls again.

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{AskKey, Call, CallKey, Caller, Events, Outcome, SessionKey};

use super::answers::{Fault, complete, put, refuse, tool_text};
use super::client::ClientCapabilities;
use super::conversations::Conversation;
use super::dialogue::{Answer, Conclusion, Question, Script};
use super::input_required::{self, DialogueState};
use super::prompts::{self, Prompt};
use super::tasks::Job;
use super::{Embedded, missing, scan};

impl Embedded {
    /// Begins a dialogue, or in the modern era goes on with it.
    pub(super) fn ask(
        &mut self,
        script: Script,
        subject: String,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let client = self.client(call);
        match call.caller {
            Caller::Session(session) => {
                let conversation = Conversation {
                    session,
                    version: call.version,
                    script,
                    subject,
                    round: 0,
                    carried: String::new(),
                    asked: Vec::new(),
                };
                self.ask_legacy(call.key, conversation, client.capabilities, events)
            }
            Caller::Stateless | Caller::Task => {
                if client.capabilities.contains(ClientCapabilities::TASKS)
                    && let Some(job) = job_of(script, &subject)
                {
                    return self.create_task(job, call, now, events);
                }
                self.ask_modern(script, &subject, client.capabilities, call, now, events)
            }
        }
    }

    /// Sends a round's questions as server requests.
    fn ask_legacy(
        &mut self,
        call: CallKey,
        mut conversation: Conversation,
        capabilities: ClientCapabilities,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let script = conversation.script;
        let version = conversation.version;
        let questions = script.questions(conversation.round, &conversation.subject, version);
        let (questions, lacking) = askable(script, questions, capabilities, version);
        if lacking != ClientCapabilities::NONE {
            let why = format!("the client must declare the capability {}", lacking.to_json());
            fail_legacy(call, &conversation, &why, events);
            return Ok(());
        }
        if questions.is_empty() {
            return self.conclude_legacy(call, conversation, &[], capabilities, events);
        }
        for question in questions {
            let ask = self.conversations.new_ask();
            conversation.asked.push((ask, question, None));
        }
        let asks: Vec<_> = conversation.asked.clone();
        let session = conversation.session;
        self.conversations.insert(call, conversation)?;
        for (ask, question, _) in asks {
            send(ask, session, call, &question, events);
        }
        Ok(())
    }

    /// Takes in the client's reply to a server request.
    pub(super) fn reply(
        &mut self,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
        events: &mut Events,
    ) {
        let Some((call, mut conversation)) = self.conversations.remove_asking(ask) else { return };
        let Some(entry) = conversation.asked.iter_mut().find(|entry| entry.0 == ask) else {
            return;
        };
        let answer = match outcome {
            Outcome::Result => entry.1.read(body).map_err(|fault| fault.to_string()),
            Outcome::Error(code) => {
                let message = scan::member(body, "message").and_then(scan::unescape);
                let message = message.unwrap_or_default();
                Err(format!("the client refused {} ({code}): {message}", entry.1.kind.method()))
            }
        };
        match answer {
            Ok(answer) => entry.2 = Some(answer),
            Err(why) => return fail_legacy(call, &conversation, &why, events),
        }
        let after = match conversation.answers() {
            None => self.conversations.insert(call, conversation),
            Some(answers) => {
                let session = self.sessions.get(&conversation.session);
                let capabilities = session.map_or(ClientCapabilities::NONE, |s| s.capabilities);
                self.conclude_legacy(call, conversation, &answers, capabilities, events)
            }
        };
        if let Err(fault) = after {
            refuse(events, call, &fault);
        }
    }

    fn conclude_legacy(
        &mut self,
        call: CallKey,
        mut conversation: Conversation,
        answers: &[Answer],
        capabilities: ClientCapabilities,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let Conversation { script, round, version, .. } = conversation;
        match script.conclude(round, &conversation.subject, &conversation.carried, answers) {
            Conclusion::NextRound { carried } => {
                conversation.round += 1;
                conversation.carried = carried;
                conversation.asked.clear();
                return self.ask_legacy(call, conversation, capabilities, events);
            }
            Conclusion::Text(text) => tool_text(events, call, version, &text, false),
            Conclusion::Context(context) => put_prompt(call, version, context, events),
            Conclusion::GreetingTask(name) => {
                tool_text(events, call, version, &format!("Hello, {name}!"), false);
            }
        }
        Ok(())
    }

    /// Reads what the client sent along and answers with the result or more questions.
    fn ask_modern(
        &mut self,
        script: Script,
        subject: &str,
        capabilities: ClientCapabilities,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let state = self.returned_state(call, now)?;
        let responses = call.params.and_then(|params| scan::member(params, "inputResponses"));
        if responses.is_some_and(|responses| !scan::is_object(responses)) {
            return Err(missing("inputResponses", "an object"));
        }
        // Without its state a retry is a first call: the questions are asked again.
        let responses = responses.filter(|_| state.is_some() || !script.needs_state());
        let mut state = state.unwrap_or_default();
        loop {
            let questions = script.questions(state.round, subject, call.version);
            let (questions, lacking) = askable(script, questions, capabilities, call.version);
            if lacking != ClientCapabilities::NONE {
                return Err(Fault::MissingCapability { required: lacking.to_json() });
            }
            let Some(answers) = read_answers(&questions, responses)? else {
                return self.require_input(script, &questions, &state, call, now, events);
            };
            match script.conclude(state.round, subject, &state.carried, &answers) {
                Conclusion::NextRound { carried } => {
                    state = DialogueState { round: state.round + 1, carried };
                }
                Conclusion::Text(text) => {
                    tool_text(events, call.key, call.version, &text, false);
                    return Ok(());
                }
                Conclusion::Context(context) => {
                    put_prompt(call.key, call.version, context, events);
                    return Ok(());
                }
                Conclusion::GreetingTask(name) => {
                    if capabilities.contains(ClientCapabilities::TASKS) {
                        return self.create_task(Job::Greet { name }, call, now, events);
                    }
                    let text = format!("Hello, {name}!");
                    tool_text(events, call.key, call.version, &text, false);
                    return Ok(());
                }
            }
        }
    }

    fn returned_state(
        &mut self,
        call: &Call<'_>,
        now: Millis,
    ) -> Result<Option<DialogueState>, Fault> {
        let raw = call.params.and_then(|params| scan::member(params, "requestState"));
        let Some(raw) = raw else { return Ok(None) };
        let text = scan::unescape(raw).ok_or_else(|| missing("requestState", "a string"))?;
        let binding = self.bind(call)?;
        self.seal.open(&text, binding, self.unix_ms(now)).map(Some)
    }

    fn require_input(
        &mut self,
        script: Script,
        questions: &[Question],
        state: &DialogueState,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let sealed = if script.needs_state() {
            let binding = self.bind(call)?;
            Some(self.seal.seal(state, binding, self.unix_ms(now)))
        } else {
            None
        };
        events.result(call.key, |out| {
            input_required::write_result(questions, sealed.as_deref(), out);
        });
        Ok(())
    }

    /// Binds a state to the request it is for.
    fn bind(&mut self, call: &Call<'_>) -> Result<input_required::Binding, Fault> {
        let arguments = call.params.and_then(|params| scan::member(params, "arguments"));
        let name = call.name.unwrap_or_default();
        // No arguments and empty ones are the same request.
        self.with_parsed(arguments.unwrap_or(b"{}"), |this, value| {
            this.seal.bind(call.method, name, Some(value))
        })
    }
}

/// The task a dialogue becomes from its start, where the client knows tasks.
fn job_of(script: Script, subject: &str) -> Option<Job> {
    if script == Script::ConfirmDelete {
        Some(Job::Delete { filename: subject.to_owned() })
    } else {
        (script == Script::MultiInput).then_some(Job::TwoInputs)
    }
}

/// The questions that can be asked, and what the client lacks for the others.
fn askable(
    script: Script,
    questions: Vec<Question>,
    capabilities: ClientCapabilities,
    version: ProtocolVersion,
) -> (Vec<Question>, ClientCapabilities) {
    // Elicitation came with 2025-06-18, whatever an older client declares.
    let known = |question: &Question| {
        let capability = question.kind.capability();
        capabilities.contains(capability)
            && (capability != ClientCapabilities::ELICITATION
                || version >= ProtocolVersion::V2025_06_18)
    };
    let (can, cannot): (Vec<_>, Vec<_>) = questions.into_iter().partition(known);
    if script.asks_by_capability() {
        return (can, ClientCapabilities::NONE);
    }
    let lacking = cannot.iter().fold(ClientCapabilities::NONE, |lacking, question| {
        lacking.with(question.kind.capability())
    });
    (can, lacking)
}

/// The answers to all questions, `None` if one is not answered. Unknown keys don't matter.
fn read_answers(
    questions: &[Question],
    responses: Option<&[u8]>,
) -> Result<Option<Vec<Answer>>, Fault> {
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let response = responses.and_then(|responses| scan::member(responses, question.key));
        match response {
            Some(response) => answers.push(question.read(response)?),
            None => return Ok(None),
        }
    }
    Ok(Some(answers))
}

fn send(ask: AskKey, session: SessionKey, call: CallKey, question: &Question, events: &mut Events) {
    events.ask(ask, session, Some(call), question.kind.method(), |out| {
        // roots/list is sent without params: there is nothing to say.
        if question.params != "{}" {
            put(out, &question.params);
        }
    });
}

/// Ends a legacy dialogue that cannot go on: a tool reports it in its result.
fn fail_legacy(call: CallKey, conversation: &Conversation, why: &str, events: &mut Events) {
    if conversation.script == Script::PromptContext {
        refuse(events, call, &Fault::InvalidRequest(why.to_owned()));
    } else {
        tool_text(events, call, conversation.version, why, true);
    }
}

fn put_prompt(call: CallKey, version: ProtocolVersion, context: String, events: &mut Events) {
    let spec = prompts::PROMPTS.iter().find(|spec| spec.prompt == Prompt::AfterInput);
    let Some(spec) = spec else {
        return refuse(events, call, &Fault::Internal("the prompt is not in its table"));
    };
    complete(events, call, version, |out| spec.write_messages(&[context], out));
}
