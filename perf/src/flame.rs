//! Flame graphs: `perf script` text folded into stacks, and stacks drawn as SVG.
//!
//! Owns the tree of frames while it draws; main thread. Width is the share of samples (of
//! microseconds off the CPU, for `perf sched timehist`), depth the stack, kernel frames are drawn
//! bluer. Frames narrower than a tenth of a pixel are left out. The picture has tooltips and no
//! script. Tested here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;

use crate::args::Args;

/// Usage.
pub const HELP: &str = "\
perf script | holdfast-perf flame [--title TEXT] > out.svg
  --timehist  stdin is of `perf sched timehist`: time off the CPU in microseconds
  --folded    print folded stacks (one line: frame;frame;frame count) instead of the picture
  --summary   print the share of user and kernel and the functions with the most samples of their
              own, and with all that they called
";

/// One frame and what it called.
#[derive(Debug, Default)]
struct Frame {
    samples: u64,
    kernel: bool,
    calls: BTreeMap<String, Frame>,
}

/// Folds `perf script` text: stack (root first, `;` between frames) to number of samples. A frame
/// of the kernel ends in `_[k]`.
pub fn fold(script: &str) -> BTreeMap<String, u64> {
    let mut folded = BTreeMap::new();
    let mut frames: Vec<String> = Vec::new();
    let mut command = String::new();
    for line in script.lines().chain([""]) {
        if line.trim().is_empty() {
            if !command.is_empty() {
                frames.push(std::mem::take(&mut command));
                frames.reverse();
                *folded.entry(frames.join(";")).or_insert(0) += 1;
            }
            frames.clear();
        } else if line.starts_with(|c: char| c.is_whitespace()) && !command.is_empty() {
            if let Some(frame) = frame(line) {
                frames.push(frame);
            }
        } else if !line.starts_with('#') {
            command = command_of(line);
        }
    }
    folded
}

/// Folds `perf sched timehist` text: stack to microseconds off the CPU (waiting, and ready but not
/// yet run).
pub fn fold_timehist(text: &str) -> BTreeMap<String, u64> {
    let mut folded = BTreeMap::new();
    for line in text.lines() {
        if let Some((stack, micros)) = off_cpu(line) {
            *folded.entry(stack).or_insert(0) += micros;
        }
    }
    folded.retain(|_, micros| *micros > 0);
    folded
}

/// `time [cpu]  command[tid/pid]  wait delay run  leaf <- caller <- ...`, times in milliseconds.
fn off_cpu(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("] ")?;
    let (command, rest) = rest.trim_start().split_once('[')?;
    let (_, rest) = rest.split_once(']')?;
    let mut words = rest.split_ascii_whitespace();
    let mut number = || words.next().and_then(|w| w.parse::<f64>().ok());
    let (wait, delay, _run) = (number()?, number()?, number()?);
    let chain = words.collect::<Vec<_>>().join(" ").replace(';', ":");
    let mut frames: Vec<String> = chain
        .split(" <- ")
        .filter(|f| !f.is_empty())
        .map(|f| format!("{f}_[k]"))
        .collect();
    frames.push(command.trim().to_owned());
    frames.reverse();
    Some((frames.join(";"), ((wait + delay) * 1e3).round() as u64))
}

/// Heading of the table of functions' own samples.
const OWN: &str = "of its own";

/// The share of user and kernel, and the functions that matter most.
pub fn summary(folded: &BTreeMap<String, u64>) -> String {
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut total, mut kernel) = (0u64, 0u64);
    for (stack, count) in folded {
        total += count;
        let leaf = stack.rsplit(';').next().unwrap_or_default();
        kernel += if leaf.ends_with("_[k]") { *count } else { 0 };
        *own.entry(leaf).or_default() += count;
        let mut seen: Vec<&str> = stack.split(';').collect();
        // A function that calls itself counts once a sample.
        seen.sort_unstable();
        seen.dedup();
        for frame in seen {
            *all.entry(frame).or_default() += count;
        }
    }
    let percent = |n: u64| n as f64 * 100.0 / total.max(1) as f64;
    let mut out = format!(
        "{total} samples: user {:.1} %, kernel {:.1} %\n",
        percent(total - kernel),
        percent(kernel)
    );
    for (title, table) in [(OWN, own), ("with what it calls, under 60 %", all)] {
        for (place, in_kernel) in [("user", false), ("kernel", true)] {
            out.push_str(&format!("\n{place}, {title}:\n"));
            let mut rows: Vec<_> = table
                .iter()
                .filter(|(name, _)| name.ends_with("_[k]") == in_kernel)
                // What nearly every stack begins with says nothing.
                .filter(|(_, count)| title == OWN || percent(**count) < 60.0)
                .collect();
            rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (name, count) in rows.iter().take(30) {
                out.push_str(&format!("{:7.2} %  {name}\n", percent(**count)));
            }
        }
    }
    out
}

/// `ffffffff81 tcp_sendmsg+0x10 ([kernel.kallsyms])` gives `tcp_sendmsg_[k]`.
fn frame(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let symbol = match symbol.rsplit_once("+0x") {
        Some((name, offset)) if offset.bytes().all(|b| b.is_ascii_hexdigit()) => name,
        _ => symbol,
    };
    let symbol = symbol.replace(';', ":");
    let kernel = object.starts_with("[kernel") || object.starts_with("[guest.kernel");
    Some(if kernel {
        format!("{symbol}_[k]")
    } else {
        symbol
    })
}

/// The command's name: the words before the pid, which stands before `[CPU]` (if any) and the time.
/// A name may hold spaces and numbers of its own.
fn command_of(line: &str) -> String {
    let is_time = |word: &str| {
        word.strip_suffix(':')
            .is_some_and(|w| w.contains('.') && w.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    };
    let mut words: Vec<&str> = line
        .split_ascii_whitespace()
        .take_while(|word| !is_time(word))
        .collect();
    words.pop_if(|word| word.starts_with('['));
    words.pop();
    words.join(" ").replace(';', ":")
}

/// Draws folded stacks.
pub fn draw(folded: &BTreeMap<String, u64>, title: &str) -> String {
    let mut root = Frame::default();
    for (stack, count) in folded {
        root.samples += count;
        let mut at = &mut root;
        for name in stack.split(';') {
            at = at.calls.entry(name.to_owned()).or_default();
            at.samples += count;
            at.kernel = name.ends_with("_[k]");
        }
    }
    let depth = depth(&root);
    let height = ROW * (depth + 3);
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fdfdf6\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">{} ({} samples)</text>\n",
        escape(title),
        root.samples
    );
    let scale = f64::from(WIDTH) / root.samples.max(1) as f64;
    let mut x = 0.0;
    for (name, call) in &root.calls {
        boxes(
            &mut out,
            name,
            call,
            x,
            height - 2 * ROW,
            scale,
            root.samples,
        );
        x += call.samples as f64 * scale;
    }
    out.push_str("</svg>\n");
    out
}

const WIDTH: u32 = 1600;
const ROW: u32 = 16;

fn depth(frame: &Frame) -> u32 {
    frame
        .calls
        .values()
        .map(|f| 1 + depth(f))
        .max()
        .unwrap_or(0)
}

fn boxes(out: &mut String, name: &str, frame: &Frame, x: f64, y: u32, scale: f64, all: u64) {
    let width = frame.samples as f64 * scale;
    if width < 0.1 {
        return;
    }
    // A colour of the name, so that the same function is found again in the next picture.
    let tone = name
        .bytes()
        .fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)))
        % 60;
    let colour = if frame.kernel {
        format!("rgb({},{},235)", 130 + tone, 165 + tone)
    } else {
        format!("rgb(245,{},{})", 120 + 2 * tone, 50 + tone)
    };
    let percent = frame.samples as f64 * 100.0 / all.max(1) as f64;
    let label: String = name.chars().take((width / 6.8) as usize).collect();
    let _ = writeln!(
        out,
        "<g><title>{} {percent:.2}% ({})</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" \
         height=\"{}\" fill=\"{colour}\" stroke=\"#fff\" stroke-width=\"0.4\"/>\
         <text x=\"{:.1}\" y=\"{}\">{}</text></g>",
        escape(name),
        frame.samples,
        ROW - 1,
        x + 2.0,
        y + 12,
        if label.len() < 3 {
            String::new()
        } else {
            escape(&label)
        },
    );
    let mut at = x;
    for (name, call) in &frame.calls {
        boxes(out, name, call, at, y.saturating_sub(ROW), scale, all);
        at += call.samples as f64 * scale;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The subcommand.
///
/// # Errors
/// On wrong usage, or when stdin can't be read.
pub fn main(mut args: Args) -> Result<(), String> {
    let folded_only = args.flag("--folded");
    let timehist = args.flag("--timehist");
    let summed = args.flag("--summary");
    let title = args
        .value("--title")?
        .unwrap_or_else(|| "Flame graph".into());
    args.finish()?;
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let folded = if timehist {
        fold_timehist(&text)
    } else {
        fold(&text)
    };
    if folded.is_empty() {
        return Err("no samples on stdin".into());
    }
    if summed {
        print!("{}", summary(&folded));
    } else if folded_only {
        for (stack, count) in &folded {
            println!("{stack} {count}");
        }
    } else {
        print!("{}", draw(&folded, &title));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
data core 0  812/813  100.25:     250000 cpu-clock:
\tffffffff8100 tcp_sendmsg+0x1a ([kernel.kallsyms])
\t    55d0 monoio::driver::park+0x20 (/usr/bin/holdfast)
\t    55c0 main (/usr/bin/holdfast)

nginx  900  100.26:     250000 cpu-clock:
\t    55d1 alloc<T>+0x20 (inlined)
\t    55c0 main+0x1 (/usr/sbin/nginx)

nginx  900  100.27:     250000 cpu-clock:
\t    55d1 alloc<T>+0x90 (inlined)
\t    55c0 main+0x1 (/usr/sbin/nginx)
";

    #[test]
    fn folds_stacks_root_first() {
        let folded = fold(SCRIPT);
        let lines: Vec<_> = folded.iter().map(|(s, n)| format!("{s} {n}")).collect();
        assert_eq!(
            lines,
            [
                "data core 0;main;monoio::driver::park;tcp_sendmsg_[k] 1",
                "nginx;main;alloc<T> 2"
            ]
        );
    }

    #[test]
    fn time_off_the_cpu() {
        let text = "\
           time    cpu  task name                       wait time  sch delay   run time
--------------- ------  ------------------------------  ---------  ---------  ---------
    3452.278521 [0000]  data core 0[17535/1753]             0.213      0.027      0.045    io_cqring_wait <- do_syscall_64
    3452.278594 [0000]  data core 0[17535/1753]             0.050      0.010      0.023    io_cqring_wait <- do_syscall_64
    3452.278600 [0000]  odd
";
        let folded = fold_timehist(text);
        let stack = "data core 0;do_syscall_64_[k];io_cqring_wait_[k]";
        assert_eq!(folded.get(stack), Some(&300));
        assert_eq!(folded.len(), 1);
    }

    #[test]
    fn sums() {
        let text = summary(&fold(SCRIPT));
        assert!(
            text.starts_with("3 samples: user 66.7 %, kernel 33.3 %\n"),
            "{text}"
        );
        assert!(text.contains("  66.67 %  alloc<T>\n"), "{text}");
        assert!(text.contains("  33.33 %  monoio::driver::park\n"), "{text}");
        assert!(!text.contains(" 100.00 %  main\n"), "{text}");
    }

    #[test]
    fn draws_every_frame_with_its_share() {
        let svg = draw(&fold(SCRIPT), "a & b");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b (3 samples)"));
        assert!(svg.contains("<title>alloc&lt;T&gt; 66.67% (2)</title>"));
        assert!(svg.contains("tcp_sendmsg_[k] 33.33% (1)"));
        assert_eq!(svg.matches("<title>").count(), 7);
        assert!(fold("").is_empty());
    }
}
