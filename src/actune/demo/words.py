"""The vocabulary of the demo in English and Chinese: what is done, to what, and which details it takes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be done to a thing: base form, third person and Chinese."""

    en: str
    does: str
    zh: str


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in the world: singular, plural, Chinese."""

    en: str
    many: str
    zh: str


@dataclass(frozen=True, slots=True)
class Field:
    """A detail of a request.

    Attributes:
        key: its name in forms and parameters.
        kind: kind of its values, see `values`.
        en: what it is, in English.
        zh: what it is, in Chinese.
        en_phrases: how it is said inside a sentence; `{}` stands for the value.
        zh_phrases: the same in Chinese.
    """

    key: str
    kind: str
    en: str
    zh: str
    en_phrases: tuple[str, ...]
    zh_phrases: tuple[str, ...]


def is_held_out(verb: Verb, thing: Thing) -> bool:
    """Tell whether a verb and a thing together are kept for held-out tools: no text of any training names the two."""
    return zlib.crc32(f"{verb.en} {thing.en}".encode()) % 8 == 0


def a(word: str) -> str:
    """Return an English word with its indefinite article."""
    return ("an " if word[0] in "aeiou" else "a ") + word


VERBS = tuple(
    Verb(*line.split("/"))
    for line in (
        "rent/rents/租",
        "repair/repairs/修理",
        "sell/sells/出售",
        "buy/buys/购买",
        "clean/cleans/清洗",
        "paint/paints/粉刷",
        "send/sends/寄送",
        "book/books/预订",
        "check/checks/检查",
        "find/finds/查找",
        "order/orders/订购",
        "cancel/cancels/取消",
        "measure/measures/测量",
        "collect/collects/收集",
        "open/opens/打开",
        "close/closes/关闭",
        "print/prints/打印",
        "store/stores/存放",
        "borrow/borrows/借",
        "return/returns/归还",
        "count/counts/清点",
        "test/tests/测试",
        "design/designs/设计",
        "deliver/delivers/配送",
        "show/shows/显示",
        "add/adds/添加",
        "remove/removes/删除",
        "play/plays/播放",
        "start/starts/启动",
        "stop/stops/停止",
        "call/calls/呼叫",
        "move/moves/搬运",
        "share/shares/分享",
        "plan/plans/规划",
        "recognize/recognizes/识别",
        "change/changes/更换",
        "read/reads/朗读",
        "record/records/记录",
        "compare/compares/比较",
        "save/saves/保存",
    )
)
THINGS = tuple(
    Thing(*line.split("/"))
    for line in (
        "bike/bikes/自行车",
        "car/cars/汽车",
        "boat/boats/小船",
        "train/trains/火车",
        "plane/planes/飞机",
        "room/rooms/房间",
        "house/houses/房子",
        "hotel/hotels/酒店",
        "table/tables/桌子",
        "chair/chairs/椅子",
        "lamp/lamps/台灯",
        "door/doors/门",
        "window/windows/窗户",
        "book/books/书",
        "letter/letters/信",
        "parcel/parcels/包裹",
        "ticket/tickets/票",
        "map/maps/地图",
        "photo/photos/照片",
        "song/songs/歌",
        "film/films/电影",
        "camera/cameras/相机",
        "phone/phones/手机",
        "computer/computers/电脑",
        "clock/clocks/钟",
        "watch/watches/手表",
        "ring/rings/戒指",
        "shirt/shirts/衬衫",
        "coat/coats/外套",
        "hat/hats/帽子",
        "shoe/shoes/鞋",
        "bag/bags/包",
        "knife/knives/刀",
        "cup/cups/杯子",
        "plate/plates/盘子",
        "bottle/bottles/瓶子",
        "bread/breads/面包",
        "cake/cakes/蛋糕",
        "soup/soups/汤",
        "apple/apples/苹果",
        "fish/fishes/鱼",
        "egg/eggs/鸡蛋",
        "tea/teas/茶",
        "coffee/coffees/咖啡",
        "flower/flowers/花",
        "tree/trees/树",
        "garden/gardens/花园",
        "dog/dogs/狗",
        "cat/cats/猫",
        "horse/horses/马",
        "bird/birds/鸟",
        "sheep/sheep/羊",
        "piano/pianos/钢琴",
        "guitar/guitars/吉他",
        "drum/drums/鼓",
        "ball/balls/球",
        "tent/tents/帐篷",
        "rope/ropes/绳子",
        "box/boxes/箱子",
        "key/keys/钥匙",
        "bridge/bridges/桥",
        "road/roads/路",
        "tower/towers/塔楼",
        "pump/pumps/水泵",
        "engine/engines/发动机",
        "wheel/wheels/轮子",
        "mirror/mirrors/镜子",
        "carpet/carpets/地毯",
        "blanket/blankets/毯子",
        "umbrella/umbrellas/雨伞",
        "bill/bills/账单",
        "invoice/invoices/发票",
        "meeting/meetings/会议",
        "concert/concerts/音乐会",
        "course/courses/课程",
        "report/reports/报告",
        "message/messages/消息",
        "account/accounts/账户",
        "visa/visas/签证",
        "medicine/medicines/药",
        "fire/fires/火情",
        "image/images/图片",
        "alarm/alarms/警报",
        "flight/flights/航班",
        "bus/buses/公交车",
        "taxi/taxis/出租车",
        "license/licenses/执照",
        "password/passwords/密码",
        "file/files/文件",
        "note/notes/便签",
        "task/tasks/任务",
        "calendar/calendars/日历",
        "payment/payments/付款",
        "contract/contracts/合同",
        "language/languages/语言",
        "game/games/游戏",
        "movie/movies/影片",
        "radio/radios/收音机",
        "robot/robots/机器人",
        "printer/printers/打印机",
        "battery/batteries/电池",
        "heater/heaters/暖气",
        "curtain/curtains/窗帘",
        "sensor/sensors/传感器",
        "museum/museums/博物馆",
        "school/schools/学校",
        "doctor/doctors/医生",
        "driver/drivers/司机",
        "order/orders/订单",
        "price/prices/价目",
        "warehouse/warehouses/仓库",
        "factory/factories/工厂",
    )
)
FIELDS = tuple(
    Field(key, kind, en, zh, tuple(en_phrases.split("|")), tuple(zh_phrases.split("|")))
    for key, kind, en, zh, en_phrases, zh_phrases in (
        ("city", "place", "the city", "城市", "in {}|in the city of {}|the city is {}", "在{}|城市是{}|在{}市"),
        (
            "name",
            "person",
            "name of the customer",
            "顾客的姓名",
            "for {}|the name is {}|my name is {}",
            "姓名是{}|我叫{}|客人叫{}",
        ),
        ("time", "time", "the time of day", "时间", "at {}|the time is {}|at {} o'clock", "时间是{}|在{}的时候|{}开始"),
        ("number", "number", "how many", "数量", "{} of them|the number is {}|{} pieces", "一共{}个|数量是{}|要{}个"),
        ("price", "number", "the price", "价格", "for {} coins|the price is {}|it costs {}", "价格是{}|花{}元|{}元"),
        ("code", "code", "the code", "编号", "with code {}|the code is {}|code {}", "编号是{}|编号为{}|编号{}"),
        ("street", "place", "the street", "街道", "on {} street|the street is {}|in {} street", "在{}街|街道是{}|{}街"),
        (
            "start",
            "place",
            "where it starts",
            "出发地",
            "from {}|it starts in {}|leaving {}",
            "从{}出发|出发地是{}|从{}",
        ),
        ("goal", "place", "where it goes", "目的地", "to {}|it goes to {}|going to {}", "到{}去|目的地是{}|去{}"),
        (
            "friend",
            "person",
            "the friend who comes along",
            "同行的朋友",
            "with my friend {}|together with {}|my friend is {}",
            "和朋友{}一起|朋友是{}|和{}一起",
        ),
        ("size", "number", "the size", "尺寸", "in size {}|the size is {}|size {}", "尺寸是{}|尺寸{}|{}号"),
        ("brand", "place", "the brand", "品牌", "made by {}|of the brand {}|the brand is {}", "品牌是{}|{}牌的|{}牌"),
        ("title", "title", "the title", "标题", "called {}|the title is {}|titled {}", "标题是{}|名为{}|标题为{}"),
        (
            "weight",
            "number",
            "the weight",
            "重量",
            "that weighs {}|the weight is {}|of weight {}",
            "重量是{}|重{}克|重量{}",
        ),
        ("shop", "place", "the shop", "商店", "from the shop {}|the shop is {}|at the shop {}", "商店是{}|在{}店|{}店"),
        (
            "guide",
            "person",
            "the guide",
            "导游",
            "guided by {}|the guide is {}|our guide {}",
            "导游是{}|导游{}|由{}带队",
        ),
        ("year", "number", "the year", "年份", "from the year {}|the year is {}|of year {}", "年份是{}|{}年的|{}年"),
        ("seat", "code", "the seat", "座位", "on seat {}|the seat is {}|seat {}", "座位是{}|座位{}|{}座"),
        (
            "teacher",
            "person",
            "the teacher",
            "老师",
            "by teacher {}|the teacher is {}|our teacher {}",
            "老师是{}|老师叫{}|{}老师",
        ),
        (
            "river",
            "place",
            "the river",
            "河流",
            "by the river {}|the river is {}|near the river {}",
            "河流是{}|在{}河边|{}河边",
        ),
        ("limit", "number", "the limit", "上限", "up to {}|the limit is {}|at most {}", "上限是{}|最多{}|不超过{}"),
        ("model", "code", "the model", "型号", "of model {}|the model is {}|model {}", "型号是{}|型号为{}|型号{}"),
        (
            "owner",
            "person",
            "the owner",
            "主人",
            "owned by {}|the owner is {}|it belongs to {}",
            "主人是{}|主人叫{}|属于{}",
        ),
        ("team", "place", "the team", "队伍", "for team {}|the team is {}|of team {}", "队伍是{}|{}队的|{}队"),
    )
)
