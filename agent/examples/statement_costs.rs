//! What knowing a statement costs: prints lines of `mix way bytes microseconds`, which `cargo xtask bench
//! statement` makes a table of.

use std::{
    env,
    hint::black_box,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use dbwarden::{
    analyst::{Analyst, Bounds},
    statement::{Lexing, analyse, redact},
};
use sqlparser::{dialect::PostgreSqlDialect, parser::Parser};

/// A sort of statements: the nth text of it, with other literals for each n.
struct Mix {
    name: &'static str,
    text: fn(usize) -> String,
}

const MIXES: &[Mix] = &[
    Mix {
        name: "pgbench",
        text: |n| {
            format!(
                "UPDATE pgbench_accounts SET abalance = abalance + {} WHERE aid = {n};",
                n % 5000
            )
        },
    },
    Mix {
        name: "orm",
        text: |n| {
            let columns: Vec<String> =
                (0..30).map(|i| format!("\"o\".\"column_{i}\" AS \"o_column_{i}\"")).collect();
            format!(
                "SELECT {} FROM \"public\".\"orders\" AS \"o\" WHERE (\"o\".\"customer_id\" = {n} AND \
                 \"o\".\"status\" IN ('new', 'paid') AND \"o\".\"deleted_at\" IS NULL) ORDER BY \
                 \"o\".\"created_at\" DESC LIMIT 20 OFFSET 0",
                columns.join(", ")
            )
        },
    },
    Mix {
        name: "report",
        text: |n| {
            let joins: Vec<String> = (1..10)
                .map(|i| format!("JOIN dimension_{i} d{i} ON d{i}.id = f.d{i}_id"))
                .collect();
            format!(
                "WITH recent AS (SELECT * FROM facts WHERE at > now() - interval '30 days') SELECT \
                 d1.name, date_trunc('month', f.at) AS month, sum(f.amount) FILTER (WHERE d2.kind = \
                 'a'), count(DISTINCT f.customer_id) FROM recent f {} WHERE d3.region = {n} GROUP BY \
                 1, 2 HAVING sum(f.amount) > 100 ORDER BY 2, 3 DESC LIMIT 50",
                joins.join(" ")
            )
        },
    },
];

/// One way to know something of a text.
type Way<'a> = (&'static str, Box<dyn FnMut(&str) + 'a>);

fn main() -> io::Result<()> {
    let mut arguments = env::args_os().skip(1);
    let program = PathBuf::from(arguments.next().ok_or(io::ErrorKind::InvalidInput)?);
    let mut number = |default: u64| {
        let given = arguments.next().and_then(|argument| argument.to_str()?.parse().ok());
        given.unwrap_or(default)
    };
    let (rounds, slice) = (number(5), Duration::from_millis(number(200)));

    let kept = Bounds { program, ..Bounds::default() };
    let forgetful = Bounds { cache_entries: 0, ..kept.clone() };
    let mut cold = Analyst::new(forgetful);
    let mut by_template = Analyst::new(kept.clone());
    let mut by_text = Analyst::new(kept);
    let lexing = Lexing::default();
    let mut ways: Vec<Way> = vec![
        ("cold", Box::new(|text| drop(black_box(cold.analysed(text, lexing))))),
        ("template", Box::new(|text| drop(black_box(by_template.analysed(text, lexing))))),
        ("text", Box::new(|text| drop(black_box(by_text.analysed(text, lexing))))),
        ("in-process", Box::new(|text| drop(black_box(analyse(text, lexing))))),
        (
            "pg_query",
            Box::new(|text| {
                drop(black_box(pg_query::parse(text, 0)));
                drop(black_box(pg_query::fingerprint(text, 0, 0)));
            }),
        ),
        (
            "sqlparser",
            Box::new(|text| {
                drop(black_box(Parser::parse_sql(&PostgreSqlDialect {}, text)));
            }),
        ),
    ];
    for _ in 0..rounds {
        for mix in MIXES {
            for (name, way) in &mut ways {
                let texts: Vec<String> = match *name {
                    // As programs that prepare send it: no literal, the same each time.
                    "text" => vec![redact(&(mix.text)(1), lexing).replace('?', "$1"); 1000],
                    _ => (0..1000).map(mix.text).collect(),
                };
                // Once for what is made lazily.
                texts.iter().take(10).for_each(|text| way(text));
                let us = microseconds(&texts, slice, way);
                println!("{} {name} {} {us:.3}", mix.name, texts[0].len());
            }
        }
    }
    Ok(())
}

/// Of one text, in the mean over a slice of time.
fn microseconds(texts: &[String], slice: Duration, way: &mut dyn FnMut(&str)) -> f64 {
    let begun = Instant::now();
    let mut n = 0_u32;
    while begun.elapsed() < slice {
        for text in texts.iter().cycle().skip(n as usize % texts.len()).take(50) {
            way(text);
            n += 1;
        }
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(n)
}
