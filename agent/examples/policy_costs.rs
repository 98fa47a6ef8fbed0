//! What judging a statement costs: prints lines of `rules way nanoseconds allocations`, which `cargo xtask
//! bench policy` makes a table of.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dbwarden::{
    event::{Facts, Lane, Origin, WallTime},
    policy::{Circumstances, Complaints, Judge, Set, Source, World},
    statement::{Lexing, analyse},
};

/// Counts what is allocated.
struct Counting;

static N_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Statements and connections that take turns.
const STATEMENTS: usize = 200;
const CONNECTIONS: u32 = 50;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let rounds = arguments.next().unwrap_or(5);
    let slice = Duration::from_millis(arguments.next().unwrap_or(200));
    for _ in 0..rounds {
        for n_rules in [20, 200] {
            if let Err(complaints) = measure(n_rules, slice) {
                eprintln!("{complaints}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(n_rules: usize, slice: Duration) -> Result<(), Complaints> {
    let text = rules(n_rules);
    let load = || {
        let source = Source { name: "rules.cedar".into(), text: text.as_str().into() };
        Set::load(&[source], true, World::default()).map(Arc::new)
    };
    let begun = Instant::now();
    let set = load()?;
    println!("{n_rules} load {} 0", begun.elapsed().as_nanos());

    let facts = facts();
    let origins: Vec<Arc<Origin>> = (0..CONNECTIONS).map(|n| Arc::new(origin(n))).collect();
    let asked = || facts.iter().zip(origins.iter().cycle());
    let circumstances = |n: u64| Circumstances {
        time: WallTime(0),
        rows: Some(n % 50),
        ..Circumstances::default()
    };
    let mut judge = Judge::new(set.clone());

    let ask = |judge: &mut Judge, begun: Instant, slice: Duration| {
        let mut n = 0_u64;
        // All of them once at least.
        loop {
            for (facts, origin) in asked() {
                black_box(judge.judge(origin, Some(facts), circumstances(n)));
                n += 1;
            }
            if begun.elapsed() >= slice {
                return n;
            }
        }
    };
    // Once for all that will be remembered.
    ask(&mut judge, Instant::now(), Duration::ZERO);
    let before = N_ALLOCATIONS.load(Ordering::Relaxed);
    let begun = Instant::now();
    let n = ask(&mut judge, begun, slice);
    tell(n_rules, "remembered", begun, n, before);

    let before = N_ALLOCATIONS.load(Ordering::Relaxed);
    let (begun, mut n) = (Instant::now(), 0);
    while begun.elapsed() < slice {
        judge.replace(set.clone());
        for (facts, origin) in asked() {
            black_box(judge.judge(origin, Some(facts), circumstances(n)));
            n += 1;
        }
    }
    tell(n_rules, "evaluated", begun, n, before);
    Ok(())
}

fn tell(n_rules: usize, way: &str, begun: Instant, n: u64, before: u64) {
    let each = |total: f64| total / n as f64;
    let ns = each(begun.elapsed().as_nanos() as f64);
    let allocations = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{n_rules} {way} {ns:.1} {:.2}", each(allocations as f64));
}

/// The starter pack and, as a site would have them, rules for its own tables, people and hours.
fn rules(n: usize) -> String {
    let packs = [dbwarden::policy::STARTER_PACK, dbwarden::policy::GUARDED_PACK];
    let packs: usize = packs.iter().map(|pack| pack.matches("\n@id(").count()).sum();
    let n_own = n.saturating_sub(packs);
    let rule = |n: usize| {
        let (scope, condition) = match n % 4 {
            0 => (
                "principal is Ai, action in Action::\"write\", resource",
                format!("resource is Table && resource.name == \"table_{n}\""),
            ),
            1 => (
                "principal, action == Action::\"read\", resource is Table",
                format!(
                    "resource.columns.contains(\"secret_{n}\") && context has rows && context.rows > 100"
                ),
            ),
            2 => (
                "principal is Human, action, resource",
                format!("context has db_user && context.db_user == \"app_{n}\""),
            ),
            _ => (
                "principal, action in Action::\"administer\", resource",
                format!("context has environment && context.environment == \"stage-{n}\""),
            ),
        };
        format!(
            "@id(\"rule-{n}\") @verdict(\"flag\") @message(\"m\")\nforbid ({scope})\nwhen {{ {condition} }};\n"
        )
    };
    (0..n_own).map(rule).collect()
}

fn facts() -> Vec<Arc<Facts>> {
    let text = |n: usize| match n % 4 {
        0 => format!("SELECT a, b FROM table_{n} WHERE id = 1"),
        1 => format!("UPDATE table_{n} SET a = 2 WHERE id = 1"),
        2 => format!("SELECT * FROM table_{n} t JOIN other_{n} o ON o.id = t.id"),
        _ => format!("INSERT INTO table_{n} (a, b) VALUES (1, 2)"),
    };
    (0..STATEMENTS).map(|n| analyse(&text(n), Lexing::default()).whole).collect()
}

fn origin(n: u32) -> Origin {
    Origin {
        host: "db1".into(),
        environment: Some("production".into()),
        server: Some("orders".into()),
        lane: Some(Lane::Observed),
        database: Some("app".into()),
        db_user: Some("app".into()),
        pid: Some(n),
        os_user: Some("shop".into()),
        unit: Some("shop.service".into()),
        ..Origin::default()
    }
}
