// Text of rollouts as elements. All of it becomes text nodes, never markup.
const rolloutText = (() => {
  'use strict';
  const make = (tag, kind, text) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) put(made, text);
    return made;
  };
  // Small letters, every character as long as it was: only this capital grows by itself.
  const fold = text => text.replaceAll('\u0130', 'i').toLowerCase();
  const joined = parts => fold(parts.map(part => part[2].join('')).join(''));

  // What nobody sees, or what changes how other text is seen, is spelt out: U+202E.
  const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u00a0\u1680\u2000-\u200a\u202f\u205f\u2800\u3000]/u;
  const spelt = (kind, text) => Object.assign(make('span', kind), {textContent: text});
  function put(into, text) {
    let seen = '';
    const flush = () => { if (seen) into.append(seen); seen = ''; };
    for (const char of text) {
      if (char === '\n') { flush(); into.append(spelt('soft-end', '↵'), '\n'); }
      else if (char !== '\t' && HIDDEN.test(char)) {
        flush();
        into.append(spelt('code', 'U+' + char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')));
      } else seen += char;
    }
    flush();
  }

  // Tokens of a rollout: coloured by weight, found text marked.
  function draw(into, parts, index, wanted) {
    const text = joined(parts), marks = [];
    for (let at = wanted ? text.indexOf(wanted) : -1; at >= 0; at = text.indexOf(wanted, at + wanted.length)) marks.push(at);
    let start = 0, next = 0;
    for (const [role, label, texts, weights] of parts) {
      const kind = index.roles[role].replace(' ', '-');
      if (label) into.append(make('span', 'label', label));
      const stretch = make('span', kind === 'trained' ? '' : kind);
      (weights && index.top ? texts : [texts.join('')]).forEach((token, place) => {
        const holder = weights && index.top ? make('i') : stretch;
        if (holder !== stretch) {
          const weight = Number(weights[place]);
          holder.title = `weight ${weights[place]}`;
          if (kind === 'trained' && weight > 0) {
            const share = Math.round(100 * Math.min(weight / index.top, 1));
            holder.style.background = `color-mix(in srgb, var(--heat) ${share}%, transparent)`;
          }
          stretch.append(holder);
        }
        next = marked(holder, token, start, marks, wanted.length, next);
        if (holder !== stretch && !token) put(holder, '·');
        start += token.length;
      });
      into.append(stretch);
    }
  }
  function marked(holder, token, start, marks, size, next) {
    let done = 0;
    while (next < marks.length && marks[next] < start + token.length) {
      const low = Math.max(marks[next] - start, 0), high = Math.min(marks[next] + size - start, token.length);
      put(holder, token.slice(done, low));
      holder.append(make('mark', '', token.slice(low, high)));
      done = high;
      if (marks[next] + size > start + token.length) break;
      next++;
    }
    put(holder, token.slice(done));
    return next;
  }
  return {make, fold, joined, draw};
})();
