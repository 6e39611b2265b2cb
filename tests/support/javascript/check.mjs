// Reads {"statements": [SQL], "machines": [definition]} from stdin, and prints [[problem]]: those of
// each statement by the grammar of Trino, then those of each state machine.
import { readFileSync } from "node:fs";
import { register } from "node:module";
import { pathToFileURL } from "node:url";
import { replaceSets } from "./antlr_sets.mjs";

register("./resolve.mjs", import.meta.url);
const modules = pathToFileURL(`${process.argv[2]}/node_modules/`);
const { statements, machines } = JSON.parse(readFileSync(0, "utf-8"));
const found = [];
if (statements.length) {
  replaceSets(await import(new URL("antlr4ng/dist/index.mjs", modules)));
  const { TrinoSQL } = await import(new URL("dt-sql-parser/dist/parser/trino/index.js", modules));
  const parser = new TrinoSQL();
  for (const sql of statements)
    found.push(parser.validate(sql).map((e) => `${e.startLine}:${e.startColumn}: ${e.message}`));
}
if (machines.length) {
  const { default: validate } = await import(new URL("asl-validator/dist/src/validator.js", modules));
  for (const machine of machines)
    found.push(validate(machine).errors.map((e) => JSON.stringify(e)));
}
console.log(JSON.stringify(found));
