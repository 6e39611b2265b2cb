// Replaces the methods of antlr4ng's sets and maps, which take most of the time of a check: a set
// counts its length anew from all of its values, and is asked for it at each value that is added.
export function replaceSets({ HashSet, HashMap }) {
  HashSet.prototype.get = function (value) {
    return foundIn(this, value, (one) => one);
  };
  HashSet.prototype.add = function (value) {
    return foundIn(this, value, (one) => one, value);
  };
  HashMap.prototype.get = function (key) {
    return foundIn(this, key, (entry) => entry.key)?.value ?? null;
  };
  HashMap.prototype.containsKey = function (key) {
    return foundIn(this, key, (entry) => entry.key) !== null;
  };
  HashMap.prototype.set = function (key, value) {
    const entry = { key, value };
    const found = foundIn(this, key, (one) => one.key, entry);
    const before = found.value;
    found.value = value;
    return before;
  };
  HashSet.prototype.values = HashMap.prototype.entries = function () {
    return [...(this.buckets?.values() ?? [])].flat();
  };
  for (const kind of [HashSet, HashMap])
    Object.defineProperty(kind.prototype, "length", { get() { return this.size ?? 0; } });
}

// Returns the entry with that key. If there is none, adds `otherwise` and returns it, or null.
function foundIn(set, key, keyOf, otherwise = null) {
  set.buckets ??= new Map();
  const hash = set.hashFunction(key), bucket = set.buckets.get(hash);
  for (const one of bucket ?? []) if (set.equalsFunction(key, keyOf(one))) return one;
  if (otherwise === null) return null;
  if (bucket === undefined) set.buckets.set(hash, [otherwise]);
  else bucket.push(otherwise);
  set.size = (set.size ?? 0) + 1;
  return otherwise;
}
