// Shows the rollouts that the page carries: the list of groups, one group, and the search. Blocks of the page are
// decompressed when a group in one of them is looked at, and one after another by a search. Text: see text.js.
(async () => {
  'use strict';
  const by = id => document.getElementById(id);
  const {make, joined, draw} = rolloutText;
  const LISTED = 50, ROLLOUTS = 24;

  async function load(element) {
    const bytes = Uint8Array.from(atob(element.textContent), char => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    return JSON.parse(await new Response(stream).text());
  }
  const index = await load(document.querySelector('script.index'));
  const blocks = [...document.querySelectorAll('script.block')];
  const first = blocks.map(() => Infinity);
  index.groups.forEach((group, place) => { first[group[2]] = Math.min(first[group[2]], place); });
  let held = -1, content = [];
  async function open(number) {
    if (number !== held) [content, held] = [await load(blocks[number]), number];
    return content;
  }

  // Searching.
  let wanted = '', hits = null, round = 0;
  async function search(text) {
    const mine = ++round;
    [wanted, hits] = [rolloutText.fold(text), null];
    if (!wanted) return list();
    const matching = new Set();
    let rollouts = 0;
    for (let number = 0; number < blocks.length; number++) {
      const groups = await load(blocks[number]);
      if (mine !== round) return undefined;
      groups.forEach((group, place) => {
        const asked = joined(group.prompt).includes(wanted);
        const here = group.items.filter(item => joined(item[2]).includes(wanted)).length;
        if (asked || here) matching.add(first[number] + place);
        rollouts += here;
      });
      by('found').textContent = `searched ${number + 1} of ${blocks.length} parts`;
    }
    hits = matching;
    return list(`${rollouts} rollouts hold it`);
  }

  // The list of groups.
  let shown = [], listed = 0, current = -1;
  function passes(group, place) {
    const [where, , , , right, scored] = group, outcome = by('outcome').value;
    return (hits === null || hits.has(place)) && (by('where').value === '' || where === +by('where').value)
      && (!outcome || (scored > 0 && (outcome === 'right' ? right === scored : outcome === 'wrong' ? right === 0
        : right > 0 && right < scored)));
  }
  function list(said) {
    shown = index.groups.map((_, place) => place).filter(place => passes(index.groups[place], place));
    by('list').replaceChildren();
    listed = 0;
    more();
    const rollouts = shown.reduce((sum, place) => sum + index.groups[place][3], 0);
    by('found').textContent = `${said ? said + '; ' : ''}${shown.length} groups${said ? ', prompts included,' : ''} with ${rollouts} rollouts are listed`;
    if (shown.length) show(shown.includes(current) ? current : shown[0]);
    else by('shown').replaceChildren(make('p', 'missing', 'Nothing matches.'));
  }
  function more() {
    for (const place of shown.slice(listed, listed + LISTED)) {
      const [where, name, , items, right, scored, snippet] = index.groups[place];
      const row = make('button', '', `${index.where[where]}, ${name}`);
      row.type = 'button';
      row.dataset.place = place;
      row.append(make('span', '', (scored ? `${right} of ${scored} correct` : `${items} rollout${items > 1 ? 's' : ''}`)));
      row.append(make('span', '', snippet.replace(/\s+/g, ' ')));
      row.onclick = () => show(place);
      by('list').append(row);
    }
    listed = Math.min(listed + LISTED, shown.length);
    by('more').hidden = listed >= shown.length;
  }

  // One group.
  async function show(place) {
    current = place;
    const [where, name, number, count] = index.groups[place];
    const group = (await open(number))[place - first[number]];
    if (current !== place) return;
    const at = shown.indexOf(place);
    by('before').disabled = at <= 0;
    by('after').disabled = at >= shown.length - 1;
    while (listed <= at) more();
    for (const row of by('list').children) {
      if (+row.dataset.place === place) row.setAttribute('aria-current', 'true'); else row.removeAttribute('aria-current');
    }
    const made = [make('h3', '', `${index.where[where]}, ${name}: ${count} rollout${count > 1 ? 's' : ''}`)];
    if (group.facts.length) made.push(make('p', 'facts', told(group.facts)));
    if (group.prompt.length) {
      const asked = make('pre', 'asked');
      draw(asked, group.prompt, index, wanted);
      made.push(asked);
    }
    made.push(...sides(group.items));
    by('said').textContent = '';
    by('shown').replaceChildren(...made);
  }
  const told = facts => facts.map(([label, value]) => label ? `${label} ${value}` : value).join(', ');
  function sides(items) {
    const of = [[true, 'Correct', 'right'], [false, 'Wrong', 'wrong'], [null, 'Rollouts', 'unscored']]
      .map(([outcome, title, kind]) => [items.filter(item => item[0] === outcome), title, kind])
      .filter(([found]) => found.length);
    const grid = make('div', of.length > 1 ? 'heat sides' : 'heat');
    for (const [found, title, kind] of of) {
      const side = make('div', kind);
      side.append(make('h4', '', `${title} (${found.length})`));
      fill(side, found, 0);
      grid.append(side);
    }
    return [grid];
  }
  function fill(side, found, from) {
    for (const [, facts, parts] of found.slice(from, from + ROLLOUTS)) {
      const box = make('div', 'rollout'), text = make('pre');
      box.append(make('p', '', told(facts)), text);
      draw(text, parts, index, wanted);
      if (!parts.length) text.append(make('span', 'left-out', 'empty'));
      side.append(box);
    }
    if (found.length > from + ROLLOUTS) {
      const button = make('button', '', `${found.length - from - ROLLOUTS} more`);
      button.type = 'button';
      button.onclick = () => { button.remove(); fill(side, found, from + ROLLOUTS); };
      side.append(button);
    }
  }

  index.where.forEach((name, place) => {
    const option = make('option', '', name);
    option.value = place;
    by('where').append(option);
  });
  if (index.top) {
    const scale = make('span', '', 'credit weight 0');
    scale.append(make('span', 'scale'), `${index.top.toPrecision(3)} and above; hover over a token, or touch it, for its number`);
    document.querySelector('.legend').append(scale);
  }
  const step = by_ => show(shown[shown.indexOf(current) + by_]);
  by('find').onsubmit = event => { event.preventDefault(); search(by('text').value); };
  by('text').onsearch = () => search(by('text').value);
  by('where').onchange = by('outcome').onchange = () => list();
  by('more').onclick = more;
  by('before').onclick = () => step(-1);
  by('after').onclick = () => step(1);
  by('shown').onclick = event => {
    const token = event.target.closest('i');
    if (token) by('said').replaceChildren(make('span', '', `${token.title}: ${token.textContent}`));
  };
  by('outcome').parentElement.hidden = !index.groups.some(group => group[5]);
  by('find').hidden = by('viewer').hidden = false;
  list();
})().catch(error => {
  const said = document.createElement('p');
  said.className = 'missing';
  said.textContent = `The rollouts cannot be shown: ${error}. A browser of 2023 or later is needed.`;
  document.getElementById('find').before(said);
});
