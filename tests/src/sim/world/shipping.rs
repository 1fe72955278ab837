//! Shippers at work, and the oracle that looks at every point they put.

use super::*;

impl World {
    pub(super) fn kill_shipper(&mut self, chosen: usize) {
        self.shippers[chosen] = Shipper::default();
        self.tickets.retain(|_, of| *of != chosen);
        self.counts.add("shippers killed");
        self.note(8, || format!("shipper {chosen} is killed"));
    }

    // ---- the shippers ----

    pub(super) fn with_port<T>(&mut self, call: impl FnOnce(&mut Vec<Shipper>, &mut Port) -> T) -> T {
        let mut port = Port {
            disks: &self.disks,
            folders: &self.folders,
            maps: &self.maps,
            vault: &mut self.vault,
            rng: &mut self.rng,
            counts: &mut self.counts,
            block_shift: self.geometry[0].block_shift,
            direct: self.settings.direct,
            conduct: self.plan.conduct,
            finish: self.finishing,
        };
        call(&mut self.shippers, &mut port)
    }

    pub(super) fn ship(&mut self, chosen: usize) {
        if self.faults.step() {
            self.struck = true;
            return;
        }
        let step = self.with_port(|shippers, port| shippers[chosen].step(port));
        self.took(chosen, step);
    }

    pub(super) fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(chosen) = self.tickets.remove(&ticket) else { return };
        let text = self.plan.trace.then(|| format!("{answer:?}").chars().take(300).collect::<String>());
        self.note(28, || format!("answer to shipper {chosen}: {}", text.unwrap_or_default()));
        let step = self.with_port(|shippers, port| shippers[chosen].answer(answer, port));
        self.took(chosen, step);
    }

    pub(super) fn took(&mut self, chosen: usize, step: Step) {
        match step {
            Step::Went => {}
            Step::Ask(question) => {
                if self.tracker.is_none() {
                    return self.shippers[chosen].disconnected(true);
                }
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.tickets.insert(ticket, chosen);
                self.note(29, || format!("shipper {chosen} asks {question:?}"));
                self.ask(question, ticket);
            }
            Step::Put(seq) => self.put(chosen, seq),
            Step::Gone => {
                // It ends with its own exit code; the newer one ships on.
                if self.shippers.len() > 1 {
                    self.shippers.remove(chosen);
                    self.tickets.retain(|_, of| *of != chosen);
                    self.tickets.values_mut().for_each(|of| *of -= usize::from(*of > chosen));
                }
            }
            Step::Wrong(what) => {
                let lineage = what.starts_with("broken lineage");
                self.is_wrong(if lineage { Oracle::Lineage } else { Oracle::Conduct }, what);
                self.kill_shipper(chosen);
            }
        }
    }

    pub(super) fn ask(&mut self, question: Question, ticket: u64) {
        let time = self.wall as u64;
        self.drive(|group, now, actions| group.ask(question, Ticket(ticket), time, now, actions));
    }

    /// Every published point is the instant of its cut: each sector is as it was, or as a write in flight made it.
    pub(super) fn put(&mut self, chosen: usize, seq: u64) {
        let entry = self.vault.entry(seq).expect("it was put").clone();
        self.note(30, || format!("shipper {chosen} put {seq}, exact {}, cut {}", entry.exact, entry.cut));
        if !entry.exact {
            return;
        }
        let cut = &self.cuts[&entry.cut];
        for (disk, image) in entry.images.iter().enumerate() {
            for (sector, value) in image.iter().enumerate() {
                let was = cut.images[disk][sector];
                // Durable before shipped (C2): nobody would notice that the disk has lost it.
                if self.disks[disk].borrow().is_volatile(sector, cut.newest[disk][sector]) {
                    let what = format!(
                        "a power cut takes back what point {seq} of cut {} has: disk {disk} sector {sector}",
                        entry.cut
                    );
                    return self.is_wrong(Oracle::Image, what);
                }
                let legal = *value == was
                    || cut.others[disk].get(&sector).is_some_and(|others| others.contains(value));
                if !legal {
                    let others = cut.others[disk].get(&sector);
                    let what = format!(
                        "point {seq} of cut {} is not the instant of its cut: disk {disk} sector {sector} is {value}, \
                         was {was}, could become {others:?}",
                        entry.cut
                    );
                    return self.is_wrong(Oracle::Image, what);
                }
            }
        }
    }
}
