//! Requests to the dispatcher, and events of jobs.

use serde_json::{Value, json};

use crate::{Outcome, Peer, Refused};

impl Peer {
    /// A client of the local socket that gets the events of jobs.
    pub fn watcher(daemon: &crate::Daemon) -> Outcome<Peer> {
        let mut peer = Peer::local(daemon)?;
        peer.subscribe()?;
        Ok(peer)
    }

    /// `run`, with `jobs` as its other keys; returns the started ids.
    pub fn run(&mut self, jobs: &Value) -> Outcome<Value> {
        Ok(self.request("rpc", "dispatcher", &with_action("run", jobs))?["started"].take())
    }

    /// `run` that must be refused.
    pub fn run_refused(&mut self, jobs: &Value) -> Outcome<Refused> {
        self.refused("rpc", "dispatcher", &with_action("run", jobs))
    }

    /// `submit`; returns the id.
    pub fn submit(&mut self, job: &Value) -> Outcome<String> {
        let reply = self.request("rpc", "dispatcher", &with_action("submit", job))?;
        Ok(reply["started"][0].as_str().ok_or("no id")?.to_owned())
    }

    /// `submit` that must be refused.
    pub fn submit_refused(&mut self, job: &Value) -> Outcome<Refused> {
        self.refused("rpc", "dispatcher", &with_action("submit", job))
    }

    /// `kill`, with an id or a list of them; returns the ids that were active.
    pub fn kill(&mut self, jobs: &Value) -> Outcome<Value> {
        let kill = json!({ "action": "kill", "job_id": jobs });
        Ok(self.request("rpc", "dispatcher", &kill)?["killed"]["jobs"].take())
    }

    /// `list`; its `jobs`.
    pub fn list(&mut self) -> Outcome<Value> {
        let mut jobs = json!({});
        let mut ask = json!({ "action": "list" });
        loop {
            let mut page = self.request("rpc", "dispatcher", &ask)?;
            for (queue, entries) in page["jobs"].as_object_mut().ok_or("no jobs")? {
                let entries = entries.as_object_mut().ok_or("a queue is no object")?;
                if jobs[queue].is_null() {
                    jobs[queue] = json!({});
                }
                jobs[queue].as_object_mut().ok_or("no queue")?.append(entries);
            }
            match page["next"].take() {
                Value::Null => return Ok(jobs),
                next => ask["page"] = next,
            }
        }
    }

    /// `log` of a job, page after page.
    pub fn whole_log(&mut self, id: &str) -> Outcome<String> {
        let mut log = String::new();
        let mut offset = json!(0);
        loop {
            let ask = json!({ "action": "log", "job_id": id, "offset": offset });
            let mut page = self.request("rpc", "dispatcher", &ask)?;
            let data = page["data"].as_str().ok_or("no data")?;
            log.push_str(data);
            if page["eof"] == true || data.is_empty() {
                return Ok(log);
            }
            offset = page["next"].take();
        }
    }

    /// The `args` of the events of a job, up to the first for which `last` returns true.
    pub fn job_until(
        &mut self,
        id: &str,
        mut last: impl FnMut(&Value) -> bool,
    ) -> Outcome<Vec<Value>> {
        let mut events = Vec::new();
        loop {
            let args = self.frame()?["args"].take();
            if args["process_id"] != id && args["process_details"]["process_id"] != id {
                continue;
            }
            let is_last = last(&args);
            events.push(args);
            if is_last {
                return Ok(events);
            }
        }
    }

    /// Waits until events contain `text` as output of a job; returns its `args` so far.
    pub fn job_printed(&mut self, id: &str, command: &str, text: &str) -> Outcome<Vec<Value>> {
        let mut received = String::new();
        self.job_until(id, |args| {
            received.push_str(args[command].as_str().unwrap_or(""));
            received.contains(text)
        })
    }

    /// The `args` of a job's finished event; earlier events are dropped.
    pub fn finished(&mut self, id: &str) -> Outcome<Value> {
        Ok(self.job(id)?.pop().unwrap_or_default())
    }
}

fn with_action(action: &str, more: &Value) -> Value {
    let mut args = json!({ "action": action });
    if let (Some(args), Some(more)) = (args.as_object_mut(), more.as_object()) {
        args.extend(more.clone());
    }
    args
}
