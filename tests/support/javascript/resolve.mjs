// dt-sql-parser is written for bundlers: its imports leave out ".js" and "/index.js".
export async function resolve(specifier, context, next) {
  for (const ending of ["", ".js"]) {
    try {
      return await next(specifier + ending, context);
    } catch {
      // the next ending
    }
  }
  return next(specifier + "/index.js", context);
}
