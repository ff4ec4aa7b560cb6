import t from "tap";
import type { SidecarConfig } from "../src/config.ts";
import { copiesSlots } from "../src/settings.ts";
import { copierSlot, planSlots, type Slot, slotsToDrop } from "../src/slots/slot-plan.ts";

const own = (name: string, change: Partial<Slot> = {}): Slot => ({
  name,
  kind: "logical",
  failover: true,
  synced: false,
  active: false,
  ...change,
});
const copier = own(copierSlot, { kind: "physical", failover: false });

t.test("the copier's slot is made once", (t) => {
  t.equal(planSlots([]).createCopierSlot, true);
  t.equal(planSlots([own(copierSlot)]).createCopierSlot, true, "a logical one of that name is none");
  t.equal(planSlots([copier]).createCopierSlot, false);
  t.end();
});

t.test("only an own failover slot that nobody uses is in the way, and only if the leader has one", (t) => {
  const slots = [
    copier,
    own("mine"),
    own("copy", { synced: true }),
    own("used", { active: true }),
    own("local", { failover: false }),
    own("physical", { kind: "physical" }),
    own("lonely"),
  ];
  const { blocking } = planSlots(slots);
  t.same(blocking, ["mine", "lonely"]);
  t.same(slotsToDrop(blocking, new Set(["mine", "copy"])), ["mine"], "the only one of its name stays");
  t.end();
});

t.test("an operator may do without", (t) => {
  const wanted = (settings: object): boolean => copiesSlots({ postgres: { settings } } as SidecarConfig);
  t.equal(wanted({}), true);
  for (const off of [false, "off", "false", "no", "0"])
    t.equal(wanted({ sync_replication_slots: off }), false);
  t.equal(wanted({ sync_replication_slots: "on" }), true);
  t.end();
});
