//! The control loop's part in a reload: beginning it, taking the result up, telling cores and operator.
//!
//! Owns nothing beside the loop. What can fail is done before ([`reload::prepare`]); from
//! [`Loop::take_up`] on the new configuration holds. Tested end to end.

use std::sync::Arc;
use std::time::Instant;

use holdfast_runtime::socket::Bound;

use super::Loop;
use crate::control::edit::Edit;
use crate::control::reload::{self, NewLog, Prepared, Reloaded, Reply};
use crate::control::shutdown::Phase;
use crate::log as say;
use crate::message::Message;

impl Loop {
    /// Begins a reload, or notes that another is wanted after the one under way.
    pub(super) fn reload(&mut self, reply: Option<Reply>) {
        if self.ending.phase() != Phase::Serving {
            let errors = vec!["the process is ending".to_owned()];
            say::warn("reload: the process is ending; nothing changes");
            if let Some(reply) = reply {
                let _ = reply.send(Err(errors));
            }
            return;
        }
        let Some(files) = self.reloader.want(reply) else {
            if self.options.files.is_empty() {
                say::warn("reload: there is no file to reload; nothing changes");
            }
            return;
        };
        let (setup, cpus) = (Arc::clone(&self.setup), self.shared.cpus.clone());
        let (known, done) = (self.names.known(), self.prepared.clone());
        let logs = self.log.is_some();
        tokio::spawn(async move {
            let prepared = reload::prepare(files, setup, cpus, known, logs).await;
            // The loop has ended: there is nothing to reload any more.
            let _ = done.send(prepared).await;
        });
    }

    /// Begins a change of upstreams by an operator.
    pub(super) fn edit(&mut self, edit: &Edit, reply: Reply) {
        let plan = if self.ending.phase() == Phase::Serving {
            edit.apply(&self.setup.plan)
        } else {
            Err("the process is ending".to_owned())
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let _ = reply.send(Err(vec![error]));
                return;
            }
        };
        if !self.reloader.want_edit(reply) {
            return;
        }
        let (setup, cpus) = (Arc::clone(&self.setup), self.shared.cpus.clone());
        let (known, done) = (self.names.known(), self.prepared.clone());
        let logs = self.log.is_some();
        tokio::spawn(async move {
            let none = Vec::new();
            let prepared = reload::prepare_plan(plan, none, setup, cpus, known, logs).await;
            let _ = done.send(prepared).await;
        });
    }

    /// Takes a configuration up for which everything is at hand, or tells why there is none.
    pub(super) fn prepared(&mut self, prepared: Result<Prepared, Vec<String>>) {
        let prepared = match prepared {
            Ok(_) if self.ending.phase() != Phase::Serving => {
                Err(vec!["the process is ending".to_owned()])
            }
            other => other,
        };
        match prepared {
            Ok(prepared) => self.take_up(prepared),
            Err(errors) => {
                for error in &errors {
                    say::error(format!("reload: {error}"));
                }
                say::error("reload failed: the configuration stays as it was");
                self.reloader.failed(errors);
            }
        }
    }

    /// From here on nothing can fail.
    fn take_up(&mut self, prepared: Prepared) {
        let Prepared {
            setup,
            groups,
            log,
            changed,
            warnings,
        } = prepared;
        let old = std::mem::replace(&mut self.setup, Arc::clone(&setup));
        self.setups.send_replace(Arc::clone(&setup));
        self.board.reload(&setup);
        self.hub.reload(&setup);
        self.names.reload(&setup, &self.answer);
        let shutdown = &setup.plan.shutdown;
        self.ending.set_times(shutdown.delay, shutdown.timeout);
        match (log, &mut self.log) {
            // Once the lines of before are here.
            (Some(NewLog::Switch(opened)), Some(_)) => self.next_log = Some(opened),
            (Some(NewLog::Start(writer)), none) => {
                self.log_counters = writer.counters();
                *none = Some(writer);
            }
            _ => {}
        }
        let mut listeners: Vec<Vec<(u16, Bound)>> = Vec::new();
        listeners.resize_with(self.shared.cores, Vec::new);
        let mut addresses = Vec::new();
        for (place, group) in groups {
            addresses.extend(group.local_addr());
            for (of_core, bound) in listeners.iter_mut().zip(group.into_listeners()) {
                of_core.push((place, bound));
            }
        }
        for (core, listeners) in listeners.into_iter().enumerate() {
            let setup = Arc::clone(&setup);
            self.local.send(core, Message::Reload { setup, listeners });
        }
        for warning in &warnings {
            say::warn(format!("reload: {warning}"));
        }
        for address in addresses {
            say::info(format!("listening on {address}"));
        }
        for (place, was) in setup.listeners.iter().zip(&old.listeners) {
            if was.serving && !place.serving {
                say::info(format!("no longer listening on {}", was.options.address));
            }
        }
        let number = setup.number;
        let words = if changed.is_empty() {
            "nothing changed".to_owned()
        } else {
            changed.join(", ")
        };
        say::info(format!("reloaded, configuration {number}: {words}"));
        let reloaded = Reloaded {
            number,
            changed,
            warnings,
        };
        self.reloader
            .sent(reloaded, self.shared.cores, Instant::now());
    }

    /// The access log goes on at its new place, if it has one.
    pub(super) fn switch_log(&mut self) {
        if let (Some(opened), Some(log)) = (self.next_log.take(), &mut self.log) {
            log.switch(opened);
        }
    }
}
