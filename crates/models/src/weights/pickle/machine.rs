//! Python's pickles as plain data: a stack machine that builds a flat list of nodes and calls nothing.
//!
//! Nodes name one another by their place in the list, so that no depth of nesting recurses, neither while reading nor while the list is
//! freed, and an object that contains itself is as harmless as any other.

use std::collections::HashMap;
use std::io::{BufRead, Read};

/// The most bytes of one pickle, without the tensors' values (256 MiB). A checkpoint's has a few hundred kB.
const MAX_BYTES: u64 = 256 << 20;
/// The most objects of one pickle; each takes 32 bytes.
const MAX_NODES: usize = 16 << 20;
/// The most bytes of one line of the text opcodes.
const MAX_LINE: u64 = 1 << 20;

/// The place of an object in [`Pickle::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u32);

/// An object.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Int(i64),
    /// A truth value, an integer that i64 does not hold, a float, bytes: what no tensor is described by.
    Other,
    Text(String),
    /// A list or a set.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// A dictionary, also an ordered one.
    Dict(Vec<(Id, Id)>),
    /// A class or a function by its name. It is never looked up.
    Global(Box<(String, String)>),
    /// What a class or function would have made.
    Object(Box<Object>),
    /// An object that is kept outside of the pickle, by its description: a tensor's storage.
    Persistent(Id),
}

/// A call that was not made.
#[derive(Debug)]
pub(crate) struct Object {
    /// The class or function.
    pub(crate) callable: Id,
    /// Its arguments.
    pub(crate) args: Id,
    /// The state that the object would have been given.
    pub(crate) state: Option<Id>,
    /// Items that were set on it, of a subclass of dict.
    pub(crate) items: Vec<(Id, Id)>,
}

/// A pickle's objects.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        // Ids are made by `Machine::push` alone and lie in the list.
        &self.nodes[id.0 as usize]
    }

    /// Every object, also those that nothing leads to.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// The text of a node.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(s) => Some(s),
            _ => None,
        }
    }

    /// The parts of a tuple or a list.
    pub(crate) fn parts(&self, id: Id) -> &[Id] {
        match self.node(id) {
            Node::Tuple(v) | Node::List(v) => v,
            _ => &[],
        }
    }

    /// The items of a dictionary, or of an object of a subclass of it.
    pub(crate) fn items(&self, id: Id) -> &[(Id, Id)] {
        match self.node(id) {
            Node::Dict(v) => v,
            Node::Object(o) => &o.items,
            _ => &[],
        }
    }

    /// The value of a text key. As in Python, the last of equal keys counts.
    pub(crate) fn get(&self, dict: Id, key: &str) -> Option<Id> {
        self.items(dict).iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, v)| *v)
    }

    /// Module and name of a class or function.
    pub(crate) fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(g) => Some((&g.0, &g.1)),
            _ => None,
        }
    }
}

/// The bytes of a pickle, counted.
struct Input<'a, R> {
    reader: &'a mut R,
    at: u64,
}

impl<R: BufRead> Input<'_, R> {
    fn count(&mut self, n: u64) -> Result<(), String> {
        self.at = self.at.saturating_add(n);
        if self.at > MAX_BYTES {
            return Err(format!("a pickle of more than {MAX_BYTES} bytes beside the tensors"));
        }
        Ok(())
    }

    fn cut(&self) -> String {
        format!("a pickle that ends at byte {}, in the middle", self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut b = [0; N];
        self.reader.read_exact(&mut b).map_err(|_| self.cut())?;
        self.count(N as u64)?;
        Ok(b)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn length4(&mut self) -> Result<u64, String> {
        Ok(u64::from(u32::from_le_bytes(self.array()?)))
    }

    /// So many bytes. Memory grows with what is there, not with what a length says.
    fn bytes(&mut self, n: u64) -> Result<Vec<u8>, String> {
        self.count(n)?;
        let mut v = Vec::new();
        let got = self.reader.by_ref().take(n).read_to_end(&mut v).map_err(|e| e.to_string())?;
        if got as u64 == n { Ok(v) } else { Err(self.cut()) }
    }

    fn skip(&mut self, n: u64) -> Result<(), String> {
        self.bytes(n).map(drop)
    }

    fn text(&mut self, n: u64) -> Result<String, String> {
        // Python 2 wrote bytes where text is meant.
        Ok(String::from_utf8(self.bytes(n)?).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut v = Vec::new();
        self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut v).map_err(|e| e.to_string())?;
        self.count(v.len() as u64)?;
        if v.pop() != Some(b'\n') {
            return Err(self.cut());
        }
        Ok(String::from_utf8_lossy(&v).trim_end_matches('\r').to_string())
    }
}

const NONE: Id = Id(0);
const EMPTY: Id = Id(1);
const OTHER: Id = Id(2);

struct Machine {
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark lies.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Parts of lists that were copied into others.
    copied: usize,
}

/// Reads one pickle, up to its STOP.
///
/// # Errors
/// When it is damaged or larger than the limits above.
pub(crate) fn unpickle<R: BufRead>(reader: &mut R) -> Result<Pickle, String> {
    let mut input = Input { reader, at: 0 };
    let nodes = vec![Node::None, Node::Tuple(vec![]), Node::Other];
    let mut machine = Machine { nodes, stack: vec![], marks: vec![], memo: HashMap::new(), copied: 0 };
    loop {
        let at = input.at;
        let op = input.byte()?;
        if op == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle { nodes: machine.nodes, root });
        }
        machine.step(op, &mut input).map_err(|e| format!("a damaged pickle: {e} (byte {at})"))?;
    }
}

impl Machine {
    fn push(&mut self, node: Node) -> Result<(), String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("more than {MAX_NODES} objects"));
        }
        self.stack.push(Id(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    /// Takes the uppermost object that lies above the last mark.
    fn pop(&mut self) -> Result<Id, String> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let at = self.marks.pop().ok_or("a mark is missing")?;
        if at > self.stack.len() {
            return Err("a mark lies above the stack".into());
        }
        Ok(self.stack.split_off(at))
    }

    fn pairs(flat: Vec<Id>) -> Result<Vec<(Id, Id)>, String> {
        if flat.len() % 2 != 0 {
            return Err("a key without a value".into());
        }
        Ok(flat.chunks_exact(2).map(|c| (c[0], c[1])).collect())
    }

    fn set(&mut self, dict: Id, pairs: Vec<(Id, Id)>) -> Result<(), String> {
        match &mut self.nodes[dict.0 as usize] {
            Node::Dict(items) => items.extend(pairs),
            Node::Object(o) => o.items.extend(pairs),
            _ => return Err("items are set on what is no dictionary".into()),
        }
        Ok(())
    }

    fn extend(&mut self, list: Id, values: Vec<Id>) -> Result<(), String> {
        match &mut self.nodes[list.0 as usize] {
            Node::List(items) => items.extend(values),
            // A subclass of list; no weights lie in one.
            Node::Object(_) => {}
            _ => return Err("a value is appended to what is no list".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("no object was kept under {key}"))?;
        self.stack.push(id);
        Ok(())
    }

    fn integer(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() > 8 {
            self.stack.push(OTHER);
            return Ok(());
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(word)))
    }

    /// What `callable(*args)` would be.
    fn call(&mut self, callable: Id, args: Id) -> Result<(), String> {
        let parts = |id: Id| match &self.nodes[id.0 as usize] {
            Node::Tuple(v) | Node::List(v) => v.as_slice(),
            _ => &[],
        };
        let name = match &self.nodes[callable.0 as usize] {
            Node::Global(g) => (g.0.as_str(), g.1.as_str()),
            _ => ("", ""),
        };
        let first = parts(args).first().map_or(&[][..], |a| parts(*a));
        if !name.0.is_empty() && matches!(name.1, "OrderedDict" | "dict" | "set" | "frozenset" | "list") {
            self.copied += first.len();
            if self.copied > MAX_NODES {
                return Err(format!("more than {MAX_NODES} objects"));
            }
        }
        let node = match name {
            ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => {
                // Python 2 gives the items as a list of pairs.
                Node::Dict(
                    first.iter().filter_map(|p| parts(*p).first().copied().zip(parts(*p).get(1).copied())).collect(),
                )
            }
            ("collections", "defaultdict") => Node::Dict(vec![]),
            ("builtins" | "__builtin__", "set" | "frozenset" | "list") => Node::List(first.to_vec()),
            _ => Node::Object(Box::new(Object { callable, args, state: None, items: vec![] })),
        };
        self.push(node)
    }

    fn step<R: BufRead>(&mut self, op: u8, input: &mut Input<'_, R>) -> Result<(), String> {
        match op {
            // Protocol and frames say nothing about the objects.
            0x80 => input.skip(1)?,
            0x95 => input.skip(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // Python takes a mark for an object here.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.stack.push(NONE),
            0x88 | 0x89 => self.stack.push(OTHER),
            b'K' => {
                let b = input.byte()?;
                self.push(Node::Int(i64::from(b)))?;
            }
            b'M' => {
                let b = input.array()?;
                self.push(Node::Int(i64::from(u16::from_le_bytes(b))))?;
            }
            b'J' => {
                let b = input.array()?;
                self.push(Node::Int(i64::from(i32::from_le_bytes(b))))?;
            }
            0x8a => {
                let n = input.byte()?;
                let b = input.bytes(u64::from(n))?;
                self.integer(&b)?;
            }
            0x8b => {
                let n = input.length4()?;
                let b = input.bytes(n)?;
                self.integer(&b)?;
            }
            b'I' | b'L' => {
                let line = input.line()?;
                match line.trim_end_matches('L').parse() {
                    // Truth values, as protocol 0 writes them.
                    _ if op == b'I' && (line == "00" || line == "01") => self.stack.push(OTHER),
                    Ok(n) => self.push(Node::Int(n))?,
                    Err(_) => self.stack.push(OTHER),
                }
            }
            b'F' => {
                input.line()?;
                self.stack.push(OTHER);
            }
            b'G' => {
                input.skip(8)?;
                self.stack.push(OTHER);
            }
            b'S' => {
                let line = input.line()?;
                let quoted = |q: char| line.strip_prefix(q).and_then(|l| l.strip_suffix(q));
                let text = quoted('\'').or_else(|| quoted('"')).unwrap_or(&line).to_string();
                self.push(Node::Text(text))?;
            }
            b'V' => {
                let line = input.line()?;
                self.push(Node::Text(line))?;
            }
            b'U' | 0x8c => {
                let n = input.byte()?;
                let text = input.text(u64::from(n))?;
                self.push(Node::Text(text))?;
            }
            b'T' | b'X' => {
                let n = input.length4()?;
                let text = input.text(n)?;
                self.push(Node::Text(text))?;
            }
            0x8d => {
                let n = u64::from_le_bytes(input.array()?);
                let text = input.text(n)?;
                self.push(Node::Text(text))?;
            }
            b'C' => {
                let n = input.byte()?;
                input.skip(u64::from(n))?;
                self.stack.push(OTHER);
            }
            b'B' => {
                let n = input.length4()?;
                input.skip(n)?;
                self.stack.push(OTHER);
            }
            0x8e | 0x96 => {
                let n = u64::from_le_bytes(input.array()?);
                input.skip(n)?;
                self.stack.push(OTHER);
            }
            b')' => self.stack.push(EMPTY),
            b']' | 0x8f => self.push(Node::List(vec![]))?,
            b'}' => self.push(Node::Dict(vec![]))?,
            b't' => {
                let parts = self.above_mark()?;
                self.push(Node::Tuple(parts))?;
            }
            0x85..=0x87 => {
                let mut parts = (0..op - 0x84).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                parts.reverse();
                self.push(Node::Tuple(parts))?;
            }
            b'l' | 0x91 => {
                let parts = self.above_mark()?;
                self.push(Node::List(parts))?;
            }
            b'd' => {
                let pairs = Self::pairs(self.above_mark()?)?;
                self.push(Node::Dict(pairs))?;
            }
            b'a' => {
                let value = self.pop()?;
                let list = self.top()?;
                self.extend(list, vec![value])?;
            }
            b'e' | 0x90 => {
                let values = self.above_mark()?;
                let list = self.top()?;
                self.extend(list, values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                let dict = self.top()?;
                self.set(dict, vec![(key, value)])?;
            }
            b'u' => {
                let pairs = Self::pairs(self.above_mark()?)?;
                let dict = self.top()?;
                self.set(dict, pairs)?;
            }
            b'p' => {
                let key = input.line()?.parse().map_err(|_| "a place that is no number")?;
                self.remember(key)?;
            }
            b'q' => {
                let key = input.byte()?;
                self.remember(u64::from(key))?;
            }
            b'r' => {
                let key = input.length4()?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let key = input.line()?.parse().map_err(|_| "a place that is no number")?;
                self.recall(key)?;
            }
            b'h' => {
                let key = input.byte()?;
                self.recall(u64::from(key))?;
            }
            b'j' => {
                let key = input.length4()?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push(Node::Global(Box::new((module, name))))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id.0 as usize] {
                    Node::Text(s) => Ok(s.clone()),
                    _ => Err("a class whose name is no text"),
                };
                let global = (text(module)?, text(name)?);
                self.push(Node::Global(Box::new(global)))?;
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            0x92 => {
                let (_, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, args)?;
            }
            b'i' => {
                let (module, name) = (input.line()?, input.line()?);
                let parts = self.above_mark()?;
                self.push(Node::Global(Box::new((module, name))))?;
                self.push(Node::Tuple(parts))?;
                let (args, class) = (self.pop()?, self.pop()?);
                self.call(class, args)?;
            }
            b'o' => {
                let mut parts = self.above_mark()?;
                if parts.is_empty() {
                    return Err("an object without a class".into());
                }
                let class = parts.remove(0);
                self.push(Node::Tuple(parts))?;
                let args = self.pop()?;
                self.call(class, args)?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                // Attributes of a dictionary, such as the versions of layers in a state dict, are not needed.
                if let Node::Object(o) = &mut self.nodes[object.0 as usize] {
                    o.state = Some(state);
                }
            }
            b'P' => {
                let name = input.line()?;
                self.push(Node::Text(name))?;
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            0x98 => {}
            0x82..=0x84 | 0x97 => return Err(format!("opcode {op:#04x}, which torch never writes")),
            _ => return Err(format!("{op:#04x} is no opcode")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle, String> {
        unpickle(&mut &bytes[..])
    }

    #[test]
    fn nothing_nested_recurses_and_nothing_is_allocated_ahead() {
        // Three million tuples of one another, which overflow the stack of a reader that recurses.
        let mut deep = vec![b'N'];
        deep.extend(vec![0x85; 3_000_000]);
        deep.push(b'.');
        let p = read(&deep).unwrap();
        assert_eq!(p.parts(p.root()).len(), 1);
        drop(p);
        let mut marks = vec![b'('; 1_000_000];
        marks.push(b'.');
        assert!(read(&marks).unwrap_err().contains("empty"));
        for huge in
            [&b"X\xff\xff\xff\xffab"[..], b"\x8d\0\0\0\0\0\0\0\x7fab", b"B\xff\xff\xff\xff", b"\x8b\xff\xff\xff\xff"]
        {
            let e = read(huge).unwrap_err();
            assert!(e.contains("middle") || e.contains("more than"), "{e}");
        }
        let many = vec![b']'; MAX_NODES + 10];
        assert!(read(&many).unwrap_err().contains("objects"));
    }

    #[test]
    fn every_protocol_gives_the_same_objects() {
        // {"a": (1, -2, True), "b": [300]}, by protocols 0, 2 and 4.
        for bytes in [
            &b"(dp0\nVa\np1\n(I1\nI-2\nI01\ntp2\nsVb\np3\n(lp4\nI300\nas."[..],
            b"\x80\x02}q\0(X\x01\0\0\0aq\x01K\x01J\xfe\xff\xff\xff\x88\x87q\x02X\x01\0\0\0bq\x03]q\x04M,\x01au.",
            b"\x80\x04\x95\x1b\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94K\x01J\xfe\xff\xff\xff\x88\x87\x94\x8c\x01b\x94]\x94M,\x01au.",
        ] {
            let p = read(bytes).unwrap();
            let a = p.parts(p.get(p.root(), "a").unwrap());
            assert!(matches!(
                (p.node(a[0]), p.node(a[1]), p.node(a[2])),
                (Node::Int(1), Node::Int(-2), Node::Other)
            ));
            let b = p.parts(p.get(p.root(), "b").unwrap());
            assert!(matches!(p.node(b[0]), Node::Int(300)));
        }
        let p = read(b"\x8a\x02\xff\x7f\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01\x86.").unwrap();
        let parts = p.parts(p.root());
        assert!(matches!((p.node(parts[0]), p.node(parts[1])), (Node::Int(32767), Node::Other)));
    }

    #[test]
    fn classes_are_names_and_damage_is_told_with_its_place() {
        let p = read(b"cos\nsystem\nX\x04\0\0\0echo\x85R}X\x01\0\0\0kNsb.").unwrap();
        let Node::Object(o) = p.node(p.root()) else { panic!("no object") };
        assert_eq!(p.global(o.callable), Some(("os", "system")));
        assert!(o.state.is_some_and(|s| p.get(s, "k").is_some()));
        let p = read(b"ccollections\nOrderedDict\n)RX\x01\0\0\0kK\x07sX\x01\0\0\0kK\x08s.").unwrap();
        assert!(matches!(p.node(p.get(p.root(), "k").unwrap()), Node::Int(8)));
        for (bytes, word) in [
            (&b"K"[..], "middle"),
            (b"0.", "empty"),
            (b"h\x07.", "under 7"),
            (b"\xee.", "0xee"),
            (b"NNs.", "empty"),
            (b"(Kt", ""),
        ] {
            assert!(read(bytes).unwrap_err().contains(word), "{bytes:?}");
        }
        // The same list of pairs made into dictionaries again and again.
        let mut copies = b"](".to_vec();
        copies.extend(vec![b'N'; 100_000]);
        copies.extend(b"eq\0");
        copies.extend(b"ccollections\nOrderedDict\nh\0\x85R".repeat(1000));
        copies.push(b'.');
        assert!(read(&copies).unwrap_err().contains("objects"));
        // A list that contains itself.
        let p = read(b"]q\0h\0a.").unwrap();
        assert_eq!(p.parts(p.root()), [p.root()]);
    }
}
