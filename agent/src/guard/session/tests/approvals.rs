//! Statements that need an approval: what waits, what the server gets meanwhile, and what goes on in which order.

use std::{sync::Arc, time::Duration};

use super::{FLOWS, NONCE, NULL, bind, execute, message, nulled, parse, query, ready, sync};
use crate::{
    approval::{Answer, Over, Who},
    event::{PrincipalKind, RequestSum, Verdict},
    guard::{
        court::{Argument, Court, Denial, Moment, Needs, Permit, Question, Reading},
        masking::{Hiding, Masks},
        session::{
            Output, Session, Tiding,
            veil::tests::{TABLE, TEXT, description, masked, row},
        },
    },
    statement::{self, Lexing, analyse_in},
};

/// Whatever deletes needs an approval.
#[derive(Default)]
struct Asking {
    /// Texts that need none any more.
    lets_pass: Option<&'static str>,
    questions: Vec<Question>,
    given_up: Vec<Over>,
    denied: Vec<Denial>,
    masks: Option<Arc<Masks>>,
}

impl Court for Asking {
    fn masks(&mut self) -> Option<Arc<Masks>> {
        self.masks.clone()
    }

    fn hiding(&self) -> Arc<Hiding> {
        Arc::default()
    }

    fn read(&mut self, text: Option<&str>, state: Moment) -> Arc<Reading> {
        let session = statement::Session {
            lexing: Lexing::default(),
            in_transaction: state.in_transaction,
            ..statement::Session::default()
        };
        let analysed = Arc::new(analyse_in(text.unwrap_or("?"), &session));
        Arc::new(Reading::of(text.map(Into::into), analysed, None))
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        _values: Option<Vec<Argument>>,
        _state: Moment,
    ) -> Arc<Reading> {
        reading.clone()
    }

    fn read_call(&mut self, _: Option<u32>, _: Vec<Argument>, moment: Moment) -> Arc<Reading> {
        self.read(None, moment)
    }

    fn instead(&mut self, reading: &Arc<Reading>, state: Moment) -> Option<Arc<Reading>> {
        let text = reading.text.as_deref()?.replace(FLOWS, NULL);
        let other = self.read(Some(&text), state);
        Some(nulled(reading, other))
    }

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        let text = reading.text.as_deref().unwrap_or_default();
        if text.contains(FLOWS) {
            return Err(super::denial());
        }
        if !text.contains("DELETE") || self.lets_pass == Some(text) {
            return Ok(Permit::given());
        }
        let needs = Needs {
            verdict: Verdict::Hold,
            needs: Vec::new(),
            facts: reading.analysed.whole.clone(),
            behind: Vec::new(),
            tables: vec!["t".into()],
            functions: Vec::new(),
            is_session_sensitive: false,
            does: String::new(),
            estimated_rows: None,
            estimated_percent: None,
            who: Who { name: "alice".into(), kind: PrincipalKind::Human, initiator: None },
            principal_rule: None,
            policy: "v1".into(),
            shown: text.to_owned(),
            copy: None,
        };
        Err(Denial { needs: Some(Arc::new(needs)), ..super::denial() })
    }

    fn sent(&mut self, _reading: &Reading) {}

    fn prepared(&mut self, _name: &str, _reading: &Reading) {}

    fn denied(&mut self, _token: &str, denial: &Denial, _text: Option<&str>) {
        self.denied.push(denial.clone());
    }

    fn authenticated(&mut self, _method: &'static str) {}

    fn renamed(&mut self, _application: &str) {}

    fn summed(&mut self, _sum: RequestSum) {}

    fn summed_so_far(&mut self, _bytes: u64, _sum: RequestSum) {}

    fn asks(&self) -> bool {
        true
    }

    fn ask(&mut self, question: Question) {
        self.questions.push(question);
    }

    fn gives_up(&mut self, why: Over) {
        self.given_up.push(why);
    }
}

/// Both ends of a session.
struct Play {
    session: Session,
    court: Asking,
    out: Output,
    piece: usize,
}

impl Play {
    /// The server is ready.
    fn new(piece: usize) -> Self {
        let (session, out) = (Session::new(NONCE), Output::default());
        let mut play = Self { session, court: Asking::default(), out, piece };
        play.server(&[ready()]);
        play.client_gets();
        play
    }

    fn client(&mut self, messages: &[Vec<u8>]) {
        for piece in messages.concat().chunks(self.piece) {
            self.session.client_bytes(piece, &mut self.court, &mut self.out).unwrap();
        }
    }

    fn server(&mut self, messages: &[Vec<u8>]) {
        for piece in messages.concat().chunks(self.piece) {
            self.session.server_bytes(piece, &mut self.court, &mut self.out).unwrap();
        }
    }

    fn hear(&mut self, tiding: Tiding) {
        self.session.hear(tiding, &mut self.court, &mut self.out).unwrap();
    }

    /// What the server has got since it was last asked.
    fn server_gets(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.to_server)
    }

    fn client_gets(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.to_client)
    }

    /// The server gets the guard's own question and nothing else, and answers it.
    fn context(&mut self, status: u8) {
        let got = self.server_gets();
        let words = String::from_utf8_lossy(&got);
        assert!(words.contains("what an approval is bound to"), "{words}");
        assert!(got.starts_with(b"P") && got.ends_with(&sync()) && !words.contains("DELETE"));
        let mut row = 9_u16.to_be_bytes().to_vec();
        for value in ["5000", "app", "app", "public", "public", "ISO", "16401"] {
            row.extend((value.len() as u32).to_be_bytes());
            row.extend(value.as_bytes());
        }
        row.extend([0xff; 8]);
        self.server(&[
            message(b'1', b""),
            message(b'2', b""),
            message(b'D', &row),
            message(b'C', b"SELECT 1\0"),
            message(b'3', b""),
            message(b'3', b""),
            message(b'Z', &[status]),
        ]);
        assert!(self.client_gets().is_empty(), "none of it is the client's");
    }

    fn question(&mut self) -> Question {
        self.court.questions.remove(0)
    }
}

fn id() -> Arc<str> {
    "apr-1".into()
}

fn wait() -> Tiding {
    let (who, until) = ("a member of dba".to_owned(), "noon".to_owned());
    Tiding::Answer(Answer::Wait { id: id(), who, until, besides: None })
}

fn ticket() -> Tiding {
    let (who, until) = ("a member of dba".to_owned(), "noon".to_owned());
    Tiding::Answer(Answer::Ticket { id: id(), who, until, besides: None })
}

fn pass() -> Tiding {
    Tiding::Answer(Answer::Pass { id: id() })
}

const PIECES: [usize; 3] = [usize::MAX, 1, 7];

#[test]
fn it_goes_on_as_it_came_with_what_came_after_it() {
    let extended = |text: &str| {
        vec![parse("", text), bind("", ""), message(b'D', b"P\0"), execute(""), sync()]
    };
    let prepared = [parse("s", "DELETE FROM t"), sync()];
    let begin = vec![parse("b", "BEGIN"), bind("", "b"), execute("")];
    let cases: [(&str, Vec<Vec<u8>>); 3] = [
        ("simple", vec![query("DELETE FROM t"), query("SELECT 1")]),
        ("extended", [extended("DELETE FROM t"), extended("SELECT 1")].concat()),
        ("with its transaction", [begin, extended("DELETE FROM t")].concat()),
    ];
    for piece in PIECES {
        for (name, messages) in &cases {
            let mut play = Play::new(piece);
            play.client(messages);
            play.context(b'I');
            let question = play.question();
            assert_eq!((&*question.text, question.verdict), ("DELETE FROM t", Verdict::Hold));
            assert_eq!(question.context.objects[0].1.as_deref(), Some("16401"), "{name}");
            play.hear(wait());
            let told = String::from_utf8_lossy(&play.client_gets()).into_owned();
            assert!(told.starts_with('N') && told.contains("waiting for approval apr-1"), "{told}");
            assert!(play.server_gets().is_empty(), "{name}");
            assert_eq!(play.session.patience(), Some(Duration::from_secs(5)), "{name}");
            play.hear(Tiding::Answer(Answer::Again { id: id() }));
            assert_eq!(play.session.patience(), None, "it would be told to nobody: {name}");
            play.context(b'I');
            assert_eq!(play.session.patience(), Some(Duration::from_secs(5)), "{name}");
            assert_eq!(play.question().waits_for, Some(id()));
            play.hear(pass());
            assert_eq!(play.server_gets(), messages.concat(), "{name}");
            assert!(!play.session.waits() && play.court.denied.is_empty());
            assert!(play.court.given_up.is_empty(), "{name}");
        }
        // Prepared before, executed later.
        let mut play = Play::new(piece);
        play.client(&prepared);
        assert_eq!(play.server_gets(), prepared.concat());
        play.server(&[message(b'1', b""), ready()]);
        play.client_gets();
        let run = [bind("", "s"), execute(""), sync()];
        play.client(&run);
        play.context(b'I');
        play.hear(pass());
        assert_eq!(play.server_gets(), run.concat());
    }
}

/// An approval is for what the server gets.
#[test]
fn what_waits_in_other_words_goes_on_in_those() {
    let [said, sent] = [FLOWS, NULL].map(|it| format!("SELECT 'DELETE' FROM t WHERE {it}"));
    let begin = [parse("b", "BEGIN"), bind("", "b"), execute("")].concat();
    let extended =
        |text: &str| [&begin[..], &parse("", text), &bind("", ""), &execute(""), &sync()].concat();
    for piece in PIECES {
        for (said, expected) in [(query(&said), query(&sent)), (extended(&said), extended(&sent))] {
            let mut play = Play::new(piece);
            play.client(&[said]);
            play.context(b'I');
            assert_eq!(play.question().text, sent);
            play.hear(pass());
            assert_eq!(play.server_gets(), expected);
            assert!(!play.session.waits() && play.court.denied.is_empty());
        }
    }
}

/// What the server prepares after it has forgotten everything is known, also where that comes before the answer.
#[test]
fn what_is_prepared_while_all_is_forgotten_waits_too() {
    let prepare = [parse("s", "DELETE FROM t"), message(b'H', b"")];
    let run = [bind("", "s"), execute(""), sync()];
    for piece in PIECES {
        for forgets in ["DISCARD ALL", "DEALLOCATE ALL"] {
            let mut play = Play::new(piece);
            play.client(&[query(forgets)]);
            play.client(&prepare);
            play.server_gets();
            play.server(&[message(b'C', format!("{forgets}\0").as_bytes()), ready()]);
            play.client(&run);
            assert!(play.session.waits(), "{forgets}");
        }
    }
}

/// What has waited is masked as what has not.
#[test]
fn what_a_masked_client_has_waited_for_is_described_once() {
    let columns = [((TABLE, 2), masked("last4"))].into();
    let masks = Arc::new(Masks { columns, relations: [TABLE].into() });
    let (describe, described) = (message(b'D', b"P\0"), description(&[(TABLE, 2, TEXT, 0)]));
    let prepare = [parse("", "DELETE FROM t RETURNING ssn"), bind("", "")];
    for piece in PIECES {
        for is_asked in [true, false] {
            let mut play = Play::new(piece);
            play.court.masks = Some(masks.clone());
            let asked = if is_asked { describe.clone() } else { Vec::new() };
            play.client(&prepare);
            play.client(&[asked, execute(""), sync()]);
            play.context(b'I');
            play.hear(pass());
            let sent = [&prepare.concat()[..], &describe, &execute(""), &sync()].concat();
            assert_eq!(play.server_gets(), sent, "{is_asked}");
            let begun = [message(b'1', b""), message(b'2', b"")];
            let ended = [message(b'C', b"DELETE 1\0"), ready()];
            let answer = |description: &[u8], row: &[u8]| {
                [&begun.concat(), description, row, &ended.concat()].concat()
            };
            play.server(&[answer(&described, &row(&[Some(b"123-45-6789")]))]);
            let told = if is_asked { &described[..] } else { &[] };
            assert_eq!(play.client_gets(), answer(told, &row(&[Some(b"***-**-6789")])));
        }
    }
}

/// As asyncpg does: `Parse`, `Describe` and `Flush`, and the rest when these are answered.
#[test]
fn what_was_prepared_in_the_same_segment_holds_nothing_up() {
    let first = [parse("s", "DELETE FROM t"), message(b'D', b"Ss\0"), message(b'H', b"")];
    let then = [bind("", "s"), execute(""), sync()];
    let answers = [message(b'1', b""), message(b't', b"\0\0"), message(b'n', b"")];
    for piece in PIECES {
        for is_answered in [true, false] {
            let mut play = Play::new(piece);
            play.client(&first);
            assert_eq!(play.server_gets(), first.concat());
            if is_answered {
                play.server(&answers);
                assert_eq!(play.client_gets(), answers.concat());
            }
            play.client(&then);
            // The guard ends the segment, and nobody hears of that.
            let asked = play.server_gets();
            assert!(asked.starts_with(&[sync(), b"P".to_vec()].concat()));
            play.out.to_server = asked[sync().len()..].to_vec();
            if !is_answered {
                play.server(&answers);
                assert_eq!(play.client_gets(), answers.concat());
            }
            play.server(&[ready()]);
            assert!(play.client_gets().is_empty());
            play.context(b'I');
            assert_eq!(play.question().verdict, Verdict::Hold);
            play.hear(pass());
            assert_eq!(play.server_gets(), then.concat());
        }
    }
}

#[test]
fn a_ticket_fails_and_what_comes_after_it_goes_on() {
    for piece in PIECES {
        let mut play = Play::new(piece);
        play.client(&[query("DELETE FROM t"), query("SELECT 1")]);
        play.context(b'I');
        play.hear(ticket());
        let poison = super::poison(1);
        assert_eq!(play.server_gets(), [query(&poison), query("SELECT 1")].concat());
        play.server(&[super::server_error(1), ready()]);
        let told = String::from_utf8_lossy(&play.client_gets()).into_owned();
        assert!(told.contains("CWA001\0") && told.contains("(approval apr-1)"), "{told}");
        let link = play.court.denied[0].approval.clone().unwrap();
        assert_eq!((link.id, link.verdict), (id(), Verdict::Hold));

        // Where locks may be held it is one whatever the rule says.
        let mut play = Play::new(piece);
        play.client(&[query("BEGIN")]);
        play.server(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")]);
        play.server_gets();
        play.client_gets();
        play.client(&[query("DELETE FROM t")]);
        play.context(b'T');
        assert_eq!(play.question().verdict, Verdict::Ticket);
    }
}

#[test]
fn whoever_waits_no_more_is_told_in_the_servers_words() {
    let denied = Answer::Denied { id: Some(id()), why: "not today".to_owned() };
    for (tiding, code, words, over) in [
        (Tiding::Cancelled, "57014", "due to user request", Some(Over::Cancelled)),
        (Tiding::TimedOut, "57014", "due to statement timeout", Some(Over::TimedOut)),
        (Tiding::Answer(denied), "42501", "approval apr-1: not today", None),
    ] {
        let mut play = Play::new(usize::MAX);
        play.client(&[query("DELETE FROM t")]);
        play.context(b'I');
        play.hear(wait());
        play.client_gets();
        play.hear(tiding);
        assert_eq!(play.server_gets(), query(&super::poison(1)));
        play.server(&[super::server_error(1), ready()]);
        let told = String::from_utf8_lossy(&play.client_gets()).into_owned();
        assert!(told.contains(&format!("C{code}\0")) && told.contains(words), "{told}");
        assert_eq!(play.court.given_up, over.into_iter().collect::<Vec<_>>());
        // Too late.
        play.hear(pass());
        assert!(play.server_gets().is_empty());
    }
}

/// What was decided about one statement is for no other, though that one needs it no more.
#[test]
fn a_decision_is_for_the_statement_that_has_waited() {
    let mut play = Play::new(usize::MAX);
    play.client(&[query("DELETE FROM t"), query("DELETE FROM u")]);
    play.context(b'I');
    play.question();
    play.court.lets_pass = Some("DELETE FROM t");
    play.hear(pass());
    assert_eq!(play.server_gets(), query("DELETE FROM t"));
    play.server(&[message(b'C', b"DELETE 1\0"), ready()]);
    play.client_gets();
    play.context(b'I');
    assert_eq!(play.question().text, "DELETE FROM u");
}

#[test]
fn where_nobody_can_be_asked_it_is_denied() {
    let select = [parse("", "SELECT 1"), bind("", ""), execute("")];
    let delete = [parse("", "DELETE FROM t"), bind("", ""), execute(""), sync()];
    for piece in PIECES {
        // Something before it in the same pipeline is at the server.
        let mut play = Play::new(piece);
        play.client(&[&select[..], &delete].concat());
        assert!(!play.session.waits() && play.court.questions.is_empty());
        assert_eq!(&*play.court.denied[0].code, "42501");

        // The server doesn't say what it would be bound to.
        let mut play = Play::new(piece);
        play.client(&delete);
        play.server_gets();
        play.server(&[super::message(b'E', b"SERROR\0C42501\0Mno\0\0"), ready()]);
        assert!(play.client_gets().is_empty());
        assert_eq!(play.court.given_up, [Over::Unbound]);
        assert_eq!(&*play.court.denied[0].code, "42501");
    }
    // It is asked once what is in flight has been answered.
    let mut play = Play::new(usize::MAX);
    play.client(&[query("SELECT 1"), query("DELETE FROM t")]);
    assert_eq!(play.server_gets(), query("SELECT 1"));
    play.server(&[message(b'C', b"SELECT 1\0"), ready()]);
    play.client_gets();
    play.context(b'I');
    assert_eq!(play.court.questions.len(), 1);
}

/// splitmix64
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whatever either side and the service say, in whatever order: no more goes on than was let pass.
#[test]
fn nothing_passes_that_nobody_has_let_pass() {
    let from_client = [
        query("DELETE FROM t"),
        query("SELECT 1"),
        query("BEGIN"),
        parse("", "DELETE FROM t"),
        parse("s", "BEGIN"),
        bind("", ""),
        bind("p", "s"),
        execute(""),
        execute("p"),
        sync(),
        message(b'H', b""),
        message(b'D', b"P\0"),
        message(b'C', b"Ss\0"),
        message(b'd', b"x"),
        message(b'X', b""),
    ];
    let from_server = [
        ready(),
        message(b'Z', b"T"),
        message(b'Z', b"E"),
        message(b'1', b""),
        message(b'2', b""),
        message(b'3', b""),
        message(b'C', b"SELECT 1\0"),
        message(b'D', b"\0\x01\0\0\0\x01x"),
        message(b'N', b"SNOTICE\0\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'E', b"SERROR\0C42601\0M?\0\0"),
    ];
    for seed in 0..3_000 {
        let mut state = seed;
        let mut play = Play::new([usize::MAX, 1, 5][seed as usize % 3]);
        let (mut n_let_pass, mut sent) = (0, Vec::new());
        for _ in 0..40 {
            let at = draw(&mut state) as usize;
            let (session, court, out) = (&mut play.session, &mut play.court, &mut play.out);
            let outcome = match draw(&mut state) % 8 {
                0..4 => session.client_bytes(&from_client[at % from_client.len()], court, out),
                4 | 5 => session.server_bytes(&from_server[at % from_server.len()], court, out),
                6 if session.waits() && matches!(at % 7, 0 | 1) && !court.questions.is_empty() => {
                    n_let_pass += 1;
                    court.questions.clear();
                    session.hear(pass(), court, out)
                }
                _ => {
                    let tiding = match at % 5 {
                        0 => wait(),
                        1 => ticket(),
                        2 => Tiding::Answer(Answer::Again { id: id() }),
                        3 => Tiding::TimedOut,
                        _ => Tiding::Cancelled,
                    };
                    session.hear(tiding, court, out)
                }
            };
            sent.append(&mut play.out.to_server);
            if outcome.is_err() {
                break;
            }
            assert!(play.session.has_room());
        }
        let deletes = query("DELETE FROM t");
        let n_sent = sent.windows(deletes.len()).filter(|bytes| **bytes == *deletes).count();
        assert!(n_sent <= n_let_pass, "seed {seed}: {n_sent} of {n_let_pass}");
        assert_eq!(play.session.counts().sent_bytes, sent.len() as u64, "seed {seed}");
    }
}
